//! Runs on tensors that other libraries share: where they are, and what they must be like.

use super::{EntryHandle, Session, bind};
#[cfg(feature = "cuda")]
use crate::dlpack::CUDA;
use crate::dlpack::{Device, DlTensor};
use crate::error::{Error, Result};
use crate::format::ElemType;
use crate::tensor::{Tensor, TensorView};

/// Where a tensor of the caller's is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Host(*mut u8),
    #[cfg(feature = "cuda")]
    Device(*mut u8),
}

/// What kernels on a GPU may rely on.
#[cfg(feature = "cuda")]
const DEVICE_ALIGN: usize = 256;

impl Session {
    /// A tensor of zeros in the memory that the session runs on.
    pub fn tensor(&mut self, elem: ElemType, shape: &[usize]) -> Result<DlTensor> {
        #[cfg(feature = "cuda")]
        if let super::Machine::Gpu(engine) = &mut self.machine {
            let fail = || Error::Memory { what: "a tensor on the device", bytes: u64::MAX };
            let len = crate::tensor::byte_len(elem, shape).ok_or_else(fail)?;
            let (start, memory) = engine.allocate(len)?;
            return Ok(DlTensor::new(elem, shape.to_vec(), Device { device_type: CUDA, device_id: 0 }, start, memory));
        }
        Ok(DlTensor::from_tensor(Tensor::zeros(elem, shape)?))
    }

    /// A copy of a tensor in the memory that the session runs on.
    pub fn copy_of(&mut self, tensor: TensorView<'_>) -> Result<DlTensor> {
        #[cfg(feature = "cuda")]
        if let super::Machine::Gpu(engine) = &mut self.machine {
            let (start, memory) = engine.upload_new(tensor.bytes())?;
            let device = Device { device_type: CUDA, device_id: 0 };
            return Ok(DlTensor::new(tensor.elem(), tensor.shape().to_vec(), device, start, memory));
        }
        let mut copy = Tensor::zeros(tensor.elem(), tensor.shape())?;
        copy.bytes_mut().copy_from_slice(tensor.bytes());
        Ok(DlTensor::from_tensor(copy))
    }

    /// The stream of the driver that runs stand on, for a session on a GPU: a producer of tensors may order its work before
    /// what is put there later.
    #[cfg(feature = "cuda")]
    pub fn cuda_stream(&self) -> Option<crate::cuda::Handle> {
        match &self.machine {
            super::Machine::Cpu(_) => None,
            super::Machine::Gpu(engine) => Some(engine.stream()),
        }
    }

    /// Refuses a tensor that the session cannot use where it is.
    fn check_place(&self, name: &str, tensor: &DlTensor) -> Result<()> {
        let Device { device_id, .. } = tensor.device();
        let fail = |problem: String| Err(Error::Tensor(format!("{name}: {problem}")));
        if tensor.is_on_host() {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        if self.machine.is_gpu() {
            if device_id != 0 {
                return fail(format!("it is on CUDA device {device_id}, the session runs on device 0"));
            }
            if !tensor.data().addr().is_multiple_of(DEVICE_ALIGN) && !tensor.is_empty() {
                let at = tensor.data().addr() % DEVICE_ALIGN;
                return fail(format!("it starts {at} bytes behind a multiple of {DEVICE_ALIGN}, where it must start"));
            }
            return Ok(());
        }
        fail(format!("it is on CUDA device {device_id}, the session runs on a processor"))
    }

    fn check_places(&self, inputs: &[(&str, &DlTensor)], outputs: &[(&str, &mut DlTensor)]) -> Result<()> {
        inputs.iter().try_for_each(|(name, tensor)| self.check_place(name, tensor))?;
        let range = |t: &DlTensor| (t.data().addr(), t.data().addr() + t.len(), t.is_on_host());
        for (i, (name, tensor)) in outputs.iter().enumerate() {
            self.check_place(name, tensor)?;
            if tensor.is_read_only() {
                return Err(Error::Tensor(format!("{name}: it is read-only, and an output")));
            }
            let others = inputs.iter().map(|(name, t)| (*name, range(t)));
            let others = others.chain(outputs[..i].iter().map(|(name, t)| (*name, range(t))));
            let (start, end, host) = range(tensor);
            let shared = others.into_iter().find(|(_, (s, e, h))| host == *h && start < *e && *s < end);
            if let Some((other, _)) = shared {
                return Err(Error::Tensor(format!("{name}: it shares memory with {other}, and is an output")));
            }
        }
        Ok(())
    }
}

impl EntryHandle<'_> {
    /// Tensors for the outputs of a run on these inputs, where the session runs.
    pub fn outputs_for(&mut self, inputs: &[(&str, &DlTensor)]) -> Result<Vec<(String, DlTensor)>> {
        self.session.bind(self.index, inputs)?;
        let shapes = self.session.bindings[self.index].as_ref().map(|b| b.output_shapes.clone()).unwrap_or_default();
        let ports = self.signature().outputs.clone();
        let made = ports.into_iter().zip(&shapes).map(|(port, shape)| {
            let tensor = self.session.tensor(port.elem, shape)?;
            Ok((port.name, tensor))
        });
        made.collect()
    }

    /// Runs it on tensors that are in the host's memory or on the session's device, and writes the outputs, all of which must
    /// be there, into theirs. Nothing is copied that is where the session runs; the rest is.
    ///
    /// On a GPU the run stands on a stream of the session's own, which waits for no other stream: what computes the inputs
    /// must be done before, or stand on [`Session::cuda_stream`]. When this returns, the outputs are complete for
    /// every stream. What an entry accepts of elements is checked in the host's memory only.
    ///
    /// # Errors
    /// Beyond those of [`EntryHandle::run_into`]: a tensor on another device, one on the session's that does not start at a
    /// multiple of 256, an output that is read-only or shares memory with another tensor.
    pub fn run_dlpack(&mut self, inputs: &[(&str, &DlTensor)], outputs: &mut [(&str, &mut DlTensor)]) -> Result<()> {
        self.session.bind(self.index, inputs)?;
        let artifact = self.session.artifact.clone();
        let (manifest, entry) = (artifact.manifest(), &artifact.manifest().entries[self.index]);
        let Some(binding) = &self.session.bindings[self.index] else { return Ok(()) };
        bind::check_outputs(manifest, entry, binding, outputs)?;
        self.session.check_places(inputs, outputs)?;
        let views = inputs.iter().filter_map(|(name, t)| Some((*name, t.view()?)));
        let views: Vec<(&str, TensorView)> = views.collect();
        self.session.check_values(self.index, &views)?;
        let input = |i: usize| {
            let named = inputs.iter().find(|(name, _)| *name == entry.inputs[i].name);
            named.map(|(_, tensor)| place(tensor))
        };
        let mut output = |i: usize| {
            let named = outputs.iter().find(|(name, _)| *name == entry.outputs[i].name);
            named.map(|(_, tensor)| place(tensor))
        };
        self.session.run_at(self.index, &input, &mut output)
    }
}

fn place(tensor: &DlTensor) -> Place {
    match tensor.device().device_type {
        #[cfg(feature = "cuda")]
        CUDA => Place::Device(tensor.data()),
        _ => Place::Host(tensor.data()),
    }
}
