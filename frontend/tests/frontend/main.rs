//! The front end from outside: what it reads, what it refuses, and that its graphs compute what PyTorch does.

mod bad_input;
mod circuit;
mod golden;
mod memory;
mod models;
mod pointer;
mod properties;
mod support;
