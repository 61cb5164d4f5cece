//! Kernel families: what a kernel computes, what it costs, and how its code is made for each kind of target.
//!
//! A kernel is described by plain data, its spec: shapes as [`Dim`]s, element types, strides, and the scalar
//! expressions fused into it. Constant sizes become constants of the code, symbolic ones are arguments ([`abi`]). Each
//! family is one folder with its contract at the head; it implements [`Family`] for its spec and has one variant in
//! [`KernelSpec`]. All code is written with [`build`], scalar arithmetic only with [`scalar::fold`]. This crate knows
//! nothing of plans, artifacts or LLVM.

pub mod abi;
pub mod access;
pub mod attention;
pub mod build;
pub mod cell;
pub mod circuit;
pub mod conv;
pub mod cpu;
pub mod cuda;
pub mod decode;
pub mod gather;
pub mod map;
pub mod matmul;
pub mod reduce;
pub mod region;
pub mod row;
pub mod scalar;
pub mod topk;
mod view;

use abi::{Convention, ModuleBuilder};
pub use access::Access;
use cpu::{Cpu, CpuLevel};
use cuda::{Grid, Sm};
use kiln_ir::{Dim, ElemType};

/// What every kernel family says of an instance. All sizes are functions of the shape alone, the same for every level,
/// so one plan serves them all.
pub trait Family: Clone + Eq + std::hash::Hash + std::fmt::Debug {
    /// The family's name: the first part of the symbols of its kernels.
    const NAME: &'static str;

    /// The buffers in the order of the calling convention: inputs, then outputs.
    fn buffers(&self) -> Vec<Buffer>;

    /// The distinct non-constant sizes that the kernel takes, in the order of the calling convention.
    fn size_args(&self) -> Vec<Dim>;

    /// The number of tasks.
    fn tasks(&self) -> Dim;

    /// Bytes of scratch memory a thread needs.
    fn scratch_bytes(&self) -> Dim;

    fn cost(&self) -> Cost;

    /// Emits the CPU kernel as the function `symbol`.
    fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu);

    /// Whether the kernel is for targets of this level: another one does its work on others.
    fn serves(&self, _: Level) -> bool {
        true
    }

    /// How the GPU kernel is launched.
    fn grid(&self, _: Sm) -> Grid {
        Grid::plain(self)
    }

    /// How a block does it alone that runs several kernels one after the other.
    fn block_grid(&self, sm: Sm) -> Grid {
        self.grid(sm)
    }

    /// Emits the GPU kernel as the function `symbol`. A family has one of its own, with a grid of its own, or the
    /// plain one: a thread does a task as a CPU with one lane does.
    fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, _: Sm) {
        self.emit(module, symbol, &cpu::ONE_LANE);
    }
}

/// What code is made for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Level {
    Cpu(CpuLevel),
    Cuda(Sm),
}

impl Level {
    pub fn all() -> impl Iterator<Item = Level> {
        CpuLevel::ALL.into_iter().map(Level::Cpu).chain(Sm::ALL.into_iter().map(Level::Cuda))
    }

    /// The name on the command line and in artifacts, such as `cpu:x86-64-v3`.
    pub fn name(self) -> String {
        match self {
            Level::Cpu(level) => format!("cpu:{}", level.name()),
            Level::Cuda(sm) => format!("cuda:{}", sm.name()),
        }
    }

    pub fn from_name(name: &str) -> Option<Level> {
        Level::all().find(|level| level.name() == name)
    }
}

impl From<CpuLevel> for Level {
    fn from(level: CpuLevel) -> Level {
        Level::Cpu(level)
    }
}

/// A buffer of a kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Buffer {
    pub elem: ElemType,
    /// Elements from the first to the last that the kernel may touch.
    pub elements: Dim,
    pub written: bool,
}

/// What a kernel does: floating-point operations, and bytes moved if each operand is moved once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cost {
    pub flops: Dim,
    pub bytes: Dim,
}

macro_rules! kernels {
    ($($variant:ident $module:ident),* $(,)?) => {
        /// A kernel of any family. Equal specs are one kernel.
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub enum KernelSpec { $($variant($module::Spec)),* }

        $(impl From<$module::Spec> for KernelSpec {
            fn from(spec: $module::Spec) -> KernelSpec {
                KernelSpec::$variant(spec)
            }
        })*

        impl KernelSpec {
            /// [`Family::NAME`]
            pub fn family(&self) -> &'static str {
                match self { $(KernelSpec::$variant(_) => <$module::Spec as Family>::NAME),* }
            }

            /// [`Family::buffers`]
            pub fn buffers(&self) -> Vec<Buffer> {
                match self { $(KernelSpec::$variant(spec) => spec.buffers()),* }
            }

            /// [`Family::size_args`]
            pub fn size_args(&self) -> Vec<Dim> {
                match self { $(KernelSpec::$variant(spec) => spec.size_args()),* }
            }

            /// [`Family::tasks`]
            pub fn tasks(&self) -> Dim {
                match self { $(KernelSpec::$variant(spec) => spec.tasks()),* }
            }

            /// [`Family::scratch_bytes`]
            pub fn scratch_bytes(&self) -> Dim {
                match self { $(KernelSpec::$variant(spec) => spec.scratch_bytes()),* }
            }

            /// [`Family::cost`]
            pub fn cost(&self) -> Cost {
                match self { $(KernelSpec::$variant(spec) => spec.cost()),* }
            }

            /// [`Family::emit`]
            pub fn emit(&self, module: &mut ModuleBuilder<'_>, symbol: &str, cpu: &'static Cpu) {
                match self { $(KernelSpec::$variant(spec) => spec.emit(module, symbol, cpu)),* }
            }

            /// [`Family::serves`]
            pub fn serves(&self, level: Level) -> bool {
                match self { $(KernelSpec::$variant(spec) => spec.serves(level)),* }
            }

            /// [`Family::grid`]
            pub fn grid(&self, sm: Sm) -> Grid {
                match self { $(KernelSpec::$variant(spec) => spec.grid(sm)),* }
            }

            /// [`Family::block_grid`]
            pub fn block_grid(&self, sm: Sm) -> Grid {
                match self { $(KernelSpec::$variant(spec) => spec.block_grid(sm)),* }
            }

            /// [`Family::emit_cuda`]
            pub fn emit_cuda(&self, module: &mut ModuleBuilder<'_>, symbol: &str, sm: Sm) {
                match self { $(KernelSpec::$variant(spec) => spec.emit_cuda(module, symbol, sm)),* }
            }

            /// Emits the kernel for a level as the function `symbol`.
            pub fn emit_for(&self, module: &mut ModuleBuilder<'_>, symbol: &str, level: Level) {
                let sm = match level {
                    Level::Cpu(level) => return self.emit(module, symbol, level.describe()),
                    Level::Cuda(sm) => sm,
                };
                let Grid { threads, maps, .. } = self.grid(sm);
                module.convention = Convention::Cuda { buffers: self.buffers().len(), threads, maps: maps.len() };
                self.emit_cuda(module, symbol, sm);
            }

            /// The name of the kernel's function: the family and a hash of the spec.
            pub fn symbol(&self) -> String {
                let hash = blake3::hash(format!("{self:?}").as_bytes()).to_hex();
                format!("{}_{}", self.family(), &hash[..12])
            }
        }
    };
}

kernels! {
    Matmul matmul,
    Attention attention,
    Decode decode,
    Map map,
    Gather gather,
    Conv conv,
    Row row,
    Reduce reduce,
    Topk topk,
    Circuit circuit,
    Cell cell,
    Region region,
}
