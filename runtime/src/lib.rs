//! Kiln's runtime: reads an artifact and runs the machine code in it.
//!
//! [`Artifact`] is one open file (or byte slice); [`Session`] holds what one caller needs to run its entries: threads,
//! the arena, and the addresses resolved for the current shapes. There is no compiler, no global state and no
//! temporary file here. An artifact holds machine code: running one is running a program its author wrote, and the
//! checks in this crate find damage, not malice.
//!
//! ```no_run
//! use kiln_runtime::{Artifact, Session, SessionOptions, TensorView};
//!
//! let artifact = Artifact::open("model.kiln")?;
//! let mut session = Session::new(&artifact, SessionOptions::default())?;
//! let ids = [101i64, 7592, 102];
//! let inputs = [("input_ids", TensorView::of(&[1, 3], &ids)?)];
//! let outputs = session.entry("forward")?.run(&inputs)?;
//! for (name, tensor) in outputs.iter() {
//!     println!("{name}: {tensor:?}");
//! }
//! # Ok::<(), kiln_runtime::Error>(())
//! ```

#[cfg(feature = "cli")]
pub mod cli;
pub mod codec;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dlpack;
pub mod format;
pub mod machine;

mod artifact;
mod code;
#[cfg(any(feature = "write", feature = "cli"))]
mod destination;
mod error;
mod executor;
mod launch;
mod memory;
mod pool;
mod profile;
mod session;
mod tensor;
mod text;
mod verify;

pub use artifact::{Artifact, OpenOptions};
pub use code::Loader;
#[cfg(any(feature = "write", feature = "cli"))]
pub use destination::{Destination, same_file, write_output};
pub use dlpack::DlTensor;
pub use error::{BadIndex, Error, Result};
pub use executor::Executor;
pub use profile::{LaunchEvent, Profile};
pub use session::{EntryHandle, Outputs, Session, SessionOptions};
pub use tensor::{Element, Tensor, TensorMut, TensorView};
pub use text::{plain, plain_lines};
pub use verify::Verify;
