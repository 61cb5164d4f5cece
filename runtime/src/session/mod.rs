//! A session: what one caller needs to run the entries of an artifact.

mod accepts;
mod bind;
#[cfg(feature = "cuda")]
mod gpu;
mod machine;
mod places;
mod run;
mod states;
mod walk;

use crate::artifact::Artifact;
use crate::code::Loader;
#[cfg(feature = "cuda")]
use crate::cuda::Driver;
use crate::error::{Error, Result};
use crate::executor::{Executor, Workers};
use crate::format::{ElemType, Entry, Lifetime, Manifest, SectionKind};
use crate::memory::Pages;
use crate::profile::Profile;
use crate::tensor::{Tensor, TensorMut, TensorView, Typed, byte_len};
use bind::{Binding, Memory};
pub(crate) use machine::target;
use machine::{Choice, Machine};
use places::Place;
use std::sync::Arc;

/// How to run.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// Workers; 1 runs everything on the calling thread and creates none. The default is what the executor says, or
    /// else the processors that the affinity mask and the control group's quota leave to this process. Results do not
    /// depend on it.
    pub threads: Option<usize>,
    /// Threads to use instead of a pool of the session's own.
    pub executor: Option<Arc<dyn Executor>>,
    /// The name of a target, or `cpu` for the best one of processors, instead of the best one that this machine runs.
    pub target: Option<String>,
    pub loader: Loader,
    /// A CUDA driver to use instead of the one that is installed.
    #[cfg(feature = "cuda")]
    pub driver: Option<Arc<Driver>>,
    /// Hears about every launch.
    pub profile: Option<Arc<dyn Profile>>,
}

/// Runs entries of one artifact, one at a time. Several sessions may share an artifact.
pub struct Session {
    artifact: Artifact,
    target: usize,
    passed_over: Vec<String>,
    machine: Machine,
    workers: Workers,
    profile: Option<Arc<dyn Profile>>,
    /// For a processor; what a GPU has stands in `machine`.
    arena: Pages,
    scratch: Pages,
    states: Vec<Pages>,
    /// By state, what it holds along the axis by which it grows.
    held: Vec<i64>,
    /// By entry: the addresses and sizes for the shapes of its last run.
    bindings: Vec<Option<Binding>>,
    verified: bool,
}

// SAFETY: the addresses in the bindings point into memory that the session owns or keeps alive.
unsafe impl Send for Session {}

/// One entry of a session, ready to run.
pub struct EntryHandle<'s> {
    session: &'s mut Session,
    index: usize,
}

/// The outputs of a run, in the entry's order.
#[derive(Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
}

impl Session {
    /// Loads the code for this machine and starts the threads. The best target is chosen: a GPU where there is one that an
    /// artifact has code for, or else the processor.
    pub fn new(artifact: &Artifact, options: SessionOptions) -> Result<Session> {
        let manifest = artifact.manifest();
        let mut bytes = Vec::with_capacity(manifest.states.len());
        for state in &manifest.states {
            let what = || format!("state {}", state.name);
            let dims = state.dims.iter().map(|d| d.eval_size(&[]).map(|v| v as usize));
            let dims: Vec<usize> =
                dims.collect::<Result<_, _>>().map_err(|source| Error::Size { what: what(), source })?;
            bytes.push(byte_len(state.elem, &dims).unwrap_or(usize::MAX));
        }
        let Choice { target, taken: machine, passed_over } = machine::load(artifact, &options, &bytes)?;
        let states = match &machine {
            Machine::Cpu(_) => bytes.iter().map(|n| Pages::new(*n, "a state")).collect::<Result<_>>()?,
            #[cfg(feature = "cuda")]
            Machine::Gpu(_) => vec![],
        };
        let threads = match &machine {
            Machine::Cpu(_) => options.threads,
            #[cfg(feature = "cuda")]
            Machine::Gpu(_) => Some(1),
        };
        Ok(Session {
            artifact: artifact.clone(),
            target,
            passed_over,
            machine,
            workers: Workers::new(threads, options.executor)?,
            profile: options.profile,
            arena: Pages::empty(),
            scratch: Pages::empty(),
            states,
            held: vec![0; manifest.states.len()],
            bindings: manifest.entries.iter().map(|_| None).collect(),
            verified: false,
        })
    }

    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The index of the target whose code runs.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Why better targets than the one that runs were not taken: what their GPU or its driver lacks.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// The number of workers.
    pub fn threads(&self) -> usize {
        self.workers.count()
    }

    /// Bytes of arena, scratch memory and states that the session holds, on the GPU where it runs on one.
    pub fn memory_bytes(&self) -> usize {
        let here = self.arena.len() + self.scratch.len() + self.states.iter().map(Pages::len).sum::<usize>();
        match &self.machine {
            Machine::Cpu(_) => here,
            #[cfg(feature = "cuda")]
            Machine::Gpu(engine) => here + engine.bytes(),
        }
    }

    /// The entry of that name.
    pub fn entry(&mut self, name: &str) -> Result<EntryHandle<'_>> {
        let manifest = self.artifact.manifest();
        let has = || manifest.entries.iter().map(|e| e.name.clone()).collect();
        let index = manifest.entry_index(name).ok_or_else(|| Error::NoEntry { name: name.to_owned(), has: has() })?;
        Ok(EntryHandle { session: self, index })
    }

    /// What a state holds along the axis by which it grows; none for one that does not grow or that there is not.
    pub fn held(&self, state: &str) -> Option<usize> {
        let at = self.artifact.manifest().states.iter().position(|s| s.name == state && s.grows.is_some())?;
        usize::try_from(self.held[at]).ok()
    }

    /// Empties all states: those that grow hold nothing, the others zeros.
    pub fn reset(&mut self) {
        let artifact = self.artifact.clone();
        self.held.fill(0);
        // A device that cannot do this does not run either, and then says why.
        let _ = self.clear_states(artifact.manifest(), |_| true);
    }

    /// Sets states that do not grow to zeros. What a growing one does not hold is never read.
    fn clear_states(&mut self, manifest: &Manifest, wanted: impl Fn(usize) -> bool) -> Result<()> {
        for (i, _) in manifest.states.iter().enumerate().filter(|(i, s)| s.grows.is_none() && wanted(*i)) {
            match &mut self.machine {
                Machine::Cpu(_) => clear(&mut self.states[i]),
                #[cfg(feature = "cuda")]
                Machine::Gpu(engine) => engine.clear_state(i)?,
            }
        }
        Ok(())
    }

    /// Notes that a bound entry has run.
    fn has_run(&mut self, entry: usize) -> Result<()> {
        if !self.verified {
            self.artifact.verify()?;
            self.verified = true;
        }
        let Some(binding) = &self.bindings[entry] else { return Ok(()) };
        binding.states.iter().for_each(|s| self.held[s.state] = s.then);
        if binding.states.iter().any(|s| s.clears) {
            let cleared: Vec<usize> = binding.states.iter().filter(|s| s.clears).map(|s| s.state).collect();
            let artifact = self.artifact.clone();
            self.clear_states(artifact.manifest(), |i| cleared.contains(&i))?;
        }
        Ok(())
    }

    /// Makes the binding of the entry fit the inputs, and the memory fit the binding.
    fn bind(&mut self, entry: usize, inputs: &[(&str, impl Typed)]) -> Result<()> {
        // A second owner, so that the session itself can change below.
        let artifact = self.artifact.clone();
        let manifest = artifact.manifest();
        let of_a_run = manifest.states.iter().zip(&mut self.held).filter(|(s, _)| s.lifetime == Lifetime::Run);
        of_a_run.for_each(|(_, held)| *held = 0);
        let held = &self.held;
        let reusable = self.bindings[entry].as_ref().is_some_and(|b| b.fits(&manifest.entries[entry], held, inputs));
        if reusable {
            return Ok(());
        }
        let types: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor.elem(), tensor.shape())).collect();
        let symbols = bind::solve(manifest, entry, &self.held, &types)?;
        let plan = &artifact.plans(self.target)[entry];
        let size = |what: &str, expr: &crate::format::SizeExpr| {
            expr.eval_size(&symbols).map_err(|source| Error::Size { what: String::from(what), source })
        };
        let arena = size("the arena", &plan.arena_bytes)? as usize;
        let stride = bind::scratch_stride(size("the scratch memory", &plan.scratch_bytes)? as usize);
        #[cfg(feature = "cuda")]
        if let Machine::Gpu(engine) = &mut self.machine {
            if arena > engine.arena_bytes() {
                self.bindings.iter_mut().for_each(|b| *b = None);
                engine.grow(arena)?;
            }
            // The launches of the binding before are no longer those of the entry.
            self.bindings[entry] = None;
            engine.forget_entry(entry);
            let states: Vec<_> = engine.states().collect();
            let memory = Memory {
                arena: engine.arena(),
                arena_bytes: arena,
                scratch: std::ptr::null_mut(),
                scratch_stride: 0,
                weights: engine.weights(),
                states: &states,
            };
            self.bindings[entry] = Some(Binding::new(manifest, entry, plan, symbols, &self.held, memory)?);
            return Ok(());
        }
        if arena > self.arena.len() || stride.saturating_mul(self.workers.count()) > self.scratch.len() {
            // Every binding holds addresses in what goes away now.
            self.bindings.iter_mut().for_each(|b| *b = None);
            self.grow(arena, stride)?;
        }
        let weights = artifact.section(SectionKind::Weights, 0);
        let states: Vec<_> = self.states.iter_mut().map(|state| (state.start(), state.len())).collect();
        let memory = Memory {
            arena: self.arena.start(),
            arena_bytes: arena,
            scratch: self.scratch.start(),
            scratch_stride: stride,
            weights: weights.as_ptr().cast_mut(),
            states: &states,
        };
        let binding = Binding::new(manifest, entry, plan, symbols, &self.held, memory)?;
        self.bindings[entry] = Some(binding);
        Ok(())
    }

    /// Refuses inputs, bound already, whose elements are not those that the entry accepts.
    fn check_values(&self, entry: usize, inputs: &[(&str, TensorView)]) -> Result<()> {
        let ports = &self.artifact.manifest().entries[entry];
        self.bindings[entry].as_ref().map_or(Ok(()), |binding| binding.check_values(ports, inputs))
    }

    fn grow(&mut self, arena: usize, stride: usize) -> Result<()> {
        if arena > self.arena.len() {
            self.arena = Pages::empty();
            self.arena = Pages::new(arena, "the arena")?;
        }
        let scratch = stride.saturating_mul(self.workers.count());
        if scratch > self.scratch.len() {
            self.scratch = Pages::empty();
            self.scratch = Pages::new(scratch, "scratch memory")?;
        }
        Ok(())
    }

    /// Runs a bound entry on tensors that are where `input` and `output` say, by port.
    fn run_at(
        &mut self,
        entry: usize,
        input: &dyn Fn(usize) -> Option<Place>,
        output: &mut dyn FnMut(usize) -> Option<Place>,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.machine.is_gpu() {
            return self.execute_on_gpu(entry, input, output);
        }
        let ports = &self.artifact.manifest().entries[entry];
        if let Some(binding) = &mut self.bindings[entry] {
            for port in 0..ports.inputs.len() + ports.outputs.len() {
                let place = if port < ports.inputs.len() { input(port) } else { output(port - ports.inputs.len()) };
                if let Some(Place::Host(start)) = place {
                    binding.place(port, start);
                }
            }
        }
        self.execute(entry)
    }

    /// Runs a bound entry whose binding holds the addresses of the caller's tensors.
    fn execute(&mut self, entry: usize) -> Result<()> {
        let artifact = self.artifact.clone();
        let states = &artifact.manifest().states;
        self.clear_states(artifact.manifest(), |i| states[i].lifetime == Lifetime::Run)?;
        let Some(binding) = &self.bindings[entry] else { return Ok(()) };
        let manifest = self.artifact.manifest();
        let kernels = &manifest.targets[self.target].kernels;
        let functions = self.machine.functions();
        run::run(binding, &manifest.entries[entry], functions, kernels, &mut self.workers, self.profile.as_deref())?;
        self.has_run(entry)
    }
}

fn clear(pages: &mut Pages) {
    // SAFETY: the pages are ours, and no kernel runs.
    unsafe { pages.start().write_bytes(0, pages.len()) }
}

impl EntryHandle<'_> {
    /// What it takes and gives.
    pub fn signature(&self) -> &Entry {
        &self.session.artifact.manifest().entries[self.index]
    }

    /// Whether it takes inputs of these names, types and shapes. An error lists all that is wrong.
    pub fn check(&self, inputs: &[(&str, ElemType, &[usize])]) -> Result<()> {
        bind::solve(self.session.artifact.manifest(), self.index, &self.session.held, inputs).map(|_| ())
    }

    /// The shapes of the outputs for inputs of these shapes, in the entry's order.
    pub fn output_shapes(&mut self, inputs: &[(&str, TensorView)]) -> Result<Vec<Vec<usize>>> {
        self.session.bind(self.index, inputs)?;
        let binding = self.session.bindings[self.index].as_ref();
        Ok(binding.map(|b| b.output_shapes.clone()).unwrap_or_default())
    }

    /// Runs it on inputs by name. An error lists all that is wrong with them and what the entry takes.
    pub fn run(&mut self, inputs: &[(&str, TensorView)]) -> Result<Outputs> {
        let shapes = self.output_shapes(inputs)?;
        self.session.check_values(self.index, inputs)?;
        let ports = self.signature().outputs.iter().zip(&shapes);
        let tensors = ports.map(|(port, shape)| Ok((port.name.clone(), Tensor::zeros(port.elem, shape)?)));
        let mut tensors: Vec<(String, Tensor)> = tensors.collect::<Result<_>>()?;
        let artifact = self.session.artifact.clone();
        let input = host_inputs(&artifact.manifest().entries[self.index], inputs);
        let mut output = |i: usize| tensors.get_mut(i).map(|(_, tensor)| Place::Host(tensor.bytes_mut().as_mut_ptr()));
        self.session.run_at(self.index, &input, &mut output)?;
        Ok(Outputs { tensors })
    }

    /// Runs it and writes each output into the tensor of its name. Every output must be there. With the shapes of the
    /// run before, it allocates nothing. After an error the content of `outputs` is not a result.
    pub fn run_into(&mut self, inputs: &[(&str, TensorView)], outputs: &mut [(&str, TensorMut)]) -> Result<()> {
        self.session.bind(self.index, inputs)?;
        self.session.check_values(self.index, inputs)?;
        let artifact = self.session.artifact.clone();
        let (manifest, entry) = (artifact.manifest(), &artifact.manifest().entries[self.index]);
        let Some(binding) = &self.session.bindings[self.index] else { return Ok(()) };
        bind::check_outputs(manifest, entry, binding, outputs)?;
        let input = host_inputs(entry, inputs);
        let mut output = |i: usize| {
            let named = outputs.iter_mut().find(|(name, _)| *name == entry.outputs[i].name);
            named.map(|(_, tensor)| Place::Host(tensor.bytes_mut().as_mut_ptr()))
        };
        self.session.run_at(self.index, &input, &mut output)
    }
}

/// Where the inputs are, by port.
fn host_inputs<'a>(entry: &'a Entry, inputs: &'a [(&str, TensorView)]) -> impl Fn(usize) -> Option<Place> + 'a {
    move |i| {
        let named = inputs.iter().find(|(name, _)| *name == entry.inputs[i].name);
        named.map(|(_, tensor)| Place::Host(tensor.bytes().as_ptr().cast_mut()))
    }
}

impl Outputs {
    /// The output of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(n, t)| (n.as_str(), t))
    }

    pub fn into_vec(self) -> Vec<(String, Tensor)> {
        self.tensors
    }
}
