//! Every codec against the specification: positions of bytes, fixture tables, error bounds.
