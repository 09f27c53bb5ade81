//! The server over real sockets, with the demo model.

mod clients;
mod errors;
mod keys;
mod openai;
mod shutdown;
mod states;
mod support;
mod tools;
