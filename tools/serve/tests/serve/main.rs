//! The server over real sockets, with the demo model.

mod clients;
mod errors;
mod guesses;
mod keys;
mod llama_cpp;
mod openai;
mod shutdown;
mod states;
mod support;
mod tools;
