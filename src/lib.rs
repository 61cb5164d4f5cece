//! The driver: from a model file to an artifact, each hand-off by the crate that owns it.
//!
//! ```no_run
//! let report = kiln::compile("model/".as_ref(), &kiln::Options::default(), "model.kiln".as_ref())?;
//! println!("{} bytes", report.file_bytes);
//! # Ok::<(), kiln::Error>(())
//! ```

use kiln_backends::{
    artifact::{self, Parts, RoomError, WriteError},
    code, codec,
    llvm::{Stage, ToolError},
    plan::{ModulePlan, PlanError, PlanOptions, plan},
    weights::{Params, Reader, WeightError},
};
use kiln_frontend::{ImportErrors, LoadOptions, Loaded};
use kiln_ir::{ElemType, Target, Verified, VerifyErrors};
use kiln_kernels::Level;
use kiln_passes::{Exactness, PassError, Record};
use kiln_runtime::{cli::pack_record, format::Writer};
use std::{
    collections::BTreeSet,
    io,
    path::Path,
    time::{Duration, Instant},
};

/// The compiler's name and version, as it stands in artifacts.
pub const PRODUCER: &str = concat!("kiln ", env!("CARGO_PKG_VERSION"));

/// What to compile for, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Format, shapes and capacities of the model.
    pub load: LoadOptions,
    /// As on the command line: `cpu`, `cpu:native`, `cpu:x86-64-v3`, `cuda:sm_80`; one artifact serves all.
    pub targets: Vec<String>,
    /// The stored type of packed weights; as in the file when absent.
    pub weights: Option<ElemType>,
    pub exactness: Exactness,
    /// Only these passes, and those that back ends rely on.
    pub passes: Option<Vec<String>>,
    /// Passes to leave out.
    pub disable: Vec<String>,
    /// Rewrites to leave out, by their index in the record.
    pub disable_rewrites: BTreeSet<usize>,
    /// Threads that generate code. The artifact does not depend on it.
    pub threads: usize,
    /// Hears of each stage as it begins.
    pub progress: Option<fn(&'static str)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            load: LoadOptions::default(),
            targets: vec!["cpu".into()],
            weights: None,
            exactness: Exactness::E1,
            passes: None,
            disable: vec![],
            disable_rewrites: BTreeSet::new(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            progress: None,
        }
    }
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Report {
    pub file_bytes: u64,
    pub weight_bytes: u64,
    /// The hash that identifies the artifact.
    pub root: [u8; 32],
    /// The levels there is code for.
    pub targets: Vec<String>,
    /// Distinct kernels.
    pub kernels: usize,
    /// Bytes of code, all targets together.
    pub code_bytes: usize,
    /// How long each stage took, in order.
    pub timings: Vec<(&'static str, Duration)>,
    pub record: Record,
    /// What the front end left out or could not carry over, and why a circuit does not code rows.
    pub notes: Vec<String>,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Import(#[from] ImportErrors),
    #[error("{0}")]
    Target(String),
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Verify(#[from] VerifyErrors),
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Artifacts have no room for something in the model.
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Code(Vec<ToolError>),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("rewrite record: {0}")]
    Record(io::Error),
}

/// What [`emit`] stops at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emit {
    /// The module at stage `legal`, as text.
    Kir,
    /// The kernels, as [`Stage`] says.
    Kernels(Stage),
}

/// The model, of which a circuit computes in the type that weights are asked for.
fn load(path: &Path, options: &Options) -> Result<Loaded, ImportErrors> {
    kiln_frontend::load(path, &LoadOptions { elem: options.weights.or(options.load.elem), ..options.load.clone() })
}

/// Compiles the model at `path` to the artifact `out`, which appears when it is complete.
pub fn compile(path: &Path, options: &Options, out: &Path) -> Result<Report, Error> {
    let mut clock = Clock { progress: options.progress, current: None, laps: vec![] };
    let levels = code::levels(&options.targets).map_err(Error::Target)?;
    clock.begin("import");
    let mut loaded = load(path, options)?;
    let codec = codec::encode(&loaded.module);
    clock.begin("passes");
    let record = legalize(&mut loaded, options, &levels)?;
    let module = kiln_ir::verify(&loaded.module)?;
    clock.begin("plan");
    let plan = planned(module, options, &levels)?;
    clock.begin("code");
    let code = code::compile(&plan.kernels, &levels, options.threads).map_err(Error::Code)?;
    clock.begin("write");
    let release = |bytes: &[u8]| loaded.weights.release(bytes);
    let tensor = |file, key: &str| loaded.weights.tensor(file, key).map(|t| t.bytes);
    let params = Params::new(&module, &tensor, &release)?;
    let rewrites = packed(&record).map_err(Error::Record)?;
    let parts = Parts { module, plan: &plan, code: &code, params: &params, producer: PRODUCER, rewrites: &rewrites };
    let mut writer = Writer::create(out).map_err(WriteError::from)?;
    let mut notes = loaded.notes;
    if let Some((section, note)) = codec {
        writer.set_codec(section);
        notes.extend(note);
    }
    let summary = artifact::write(writer, &parts)?;
    clock.end();
    Ok(Report {
        file_bytes: summary.file_bytes,
        weight_bytes: summary.weight_bytes,
        root: summary.root,
        targets: levels.iter().map(|level| level.name()).collect(),
        kernels: plan.kernels.len(),
        code_bytes: code.iter().map(|c| c.bytes.len()).sum(),
        timings: clock.laps,
        record,
        notes,
    })
}

/// Goes the whole way to an artifact except for the code and the file; returns the front end's notes.
///
/// # Errors
/// What would stop a compilation: of the files all that is wrong with them, or else of the graph all that has no plan.
pub fn check(path: &Path, options: &Options) -> Result<Vec<String>, Error> {
    let levels = code::levels(&options.targets).map_err(Error::Target)?;
    let mut loaded = load(path, options)?;
    legalize(&mut loaded, options, &levels)?;
    let module = kiln_ir::verify(&loaded.module)?;
    let plan = planned(module, options, &levels)?;
    let release = |bytes: &[u8]| loaded.weights.release(bytes);
    let tensor = |file, key: &str| loaded.weights.tensor(file, key).map(|t| t.bytes);
    let params = Params::new(&module, &tensor, &release)?;
    Reader::new(&module, &plan.weights, &params)?;
    Ok(loaded.notes)
}

fn planned(module: Verified<'_>, options: &Options, levels: &[Level]) -> Result<ModulePlan, Error> {
    let gpu = levels.iter().any(|level| matches!(level, Level::Cuda(_)));
    let plan = plan(module, &PlanOptions { weights: options.weights, gpu })?;
    artifact::check(&module, &plan, levels)?;
    Ok(plan)
}

fn packed(record: &Record) -> io::Result<Vec<u8>> {
    pack_record(&serde_json::to_vec(record)?)
}

/// What the compiler makes of the model at `path` on the way to an artifact: names, such as `cpu:x86-64-v3/map-1f..`,
/// with text or objects.
pub fn emit(path: &Path, options: &Options, what: Emit) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let levels = code::levels(&options.targets).map_err(Error::Target)?;
    let mut loaded = load(path, options)?;
    legalize(&mut loaded, options, &levels)?;
    let module = kiln_ir::verify(&loaded.module)?;
    match what {
        Emit::Kir => Ok(vec![("module".into(), module.to_string().into_bytes())]),
        Emit::Kernels(stage) => {
            let ModulePlan { kernels, .. } = planned(module, options, &levels)?;
            code::emit_named(&kernels, &levels, stage, options.threads).map_err(Error::Code)
        }
    }
}

fn legalize(loaded: &mut Loaded, options: &Options, levels: &[Level]) -> Result<Record, Error> {
    let target = code::representative(levels);
    let target = Target::from_name(&target).ok_or_else(|| Error::Target(format!("no target {target}")))?;
    let passes = kiln_passes::Options {
        exactness: options.exactness,
        only: options.passes.clone(),
        disable: options.disable.clone(),
        disable_rewrites: options.disable_rewrites.clone(),
        ..kiln_passes::Options::new(target)
    };
    Ok(kiln_passes::run_pipeline(&mut loaded.module, &passes)?)
}

/// The time of each stage.
struct Clock {
    progress: Option<fn(&'static str)>,
    current: Option<(&'static str, Instant)>,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn begin(&mut self, stage: &'static str) {
        self.end();
        self.current = Some((stage, Instant::now()));
        if let Some(progress) = self.progress {
            progress(stage);
        }
    }

    fn end(&mut self) {
        if let Some((stage, begun)) = self.current.take() {
            self.laps.push((stage, begun.elapsed()));
        }
    }
}
