//! Lossless coding of rows with the distribution of a circuit.
//!
//! A row costs as many bits as its probability says, to about one in a hundred thousand. [`Codec`] is the circuit of an
//! artifact made ready; [`Encoder`] and [`Decoder`] work on streams of any length in bounded memory, [`Codec::encode`]
//! and [`Codec::decode`] on what fits into it. The bytes are the same on every machine. A stream names its circuit, and
//! nothing else decodes it.
//!
//! ```no_run
//! use kiln_runtime::{Artifact, TensorView, codec::Codec};
//!
//! let codec = Codec::new(&Artifact::open("digits.kiln")?)?;
//! let rows = vec![0u8; 10 * codec.variables()];
//! let coded = codec.encode(TensorView::of(&[10, codec.variables()], &rows)?)?;
//! let again = codec.decode(&coded, 1 << 30)?;
//! assert_eq!(again.bytes(), rows);
//! # Ok::<(), kiln_runtime::Error>(())
//! ```

mod error;
mod frequencies;
mod group;
mod ordered;
mod rans;
mod sparse;
mod stream;
mod tables;
mod unordered;

pub use error::CodecError;
#[cfg(feature = "cli")]
pub(crate) use stream::integer;
pub use stream::{Decoder, Encoder, MAGIC, Summary, VERSION};
pub use tables::{Graph, Inner, MAX_VALUES, Node, Region, Section, Structure, Tables, Variable};
#[cfg(feature = "write")]
pub use {stream::reseal, tables::encode as encode_section};

use crate::error::{Error, Result};
use crate::format::{ElemType, SectionKind};
use crate::{Artifact, Tensor, TensorView};
use frequencies::Alphabet;
use ordered::Program;
use std::sync::Arc;

/// A circuit made ready to code with. Clones share everything.
#[derive(Clone)]
pub struct Codec {
    model: Arc<Model>,
}

struct Model {
    /// By variable.
    alphabets: Vec<Alphabet>,
    evaluation: Evaluation,
    hash: [u8; 32],
}

enum Evaluation {
    Ordered { regions: Vec<Region>, program: Program },
    Unordered(Graph),
}

impl Codec {
    /// The circuit of an artifact. Waits for the check of the file's hashes.
    ///
    /// # Errors
    /// If it has no circuit, or one that does not code, as with continuous variables.
    pub fn new(artifact: &Artifact) -> Result<Codec> {
        if !artifact.sections().iter().any(|s| s.kind == SectionKind::Codec) {
            return Err(CodecError::NoCircuit.into());
        }
        artifact.verify()?;
        let bytes = artifact.section(SectionKind::Codec, 0);
        let bad = |problem: String| Error::malformed(SectionKind::Codec.name(), problem);
        let section: Section = match postcard::take_from_bytes(bytes) {
            Ok((section, [])) => section,
            Ok((_, rest)) => return Err(bad(format!("{} bytes follow its end", rest.len()))),
            Err(e) => return Err(bad(e.to_string())),
        };
        let tables = section.map_err(CodecError::Refused)?;
        Codec::build(tables, *blake3::hash(bytes).as_bytes()).map_err(bad)
    }

    /// The circuit of these tables.
    ///
    /// # Errors
    /// A sentence on the first rule that they break.
    pub fn from_tables(tables: Tables) -> Result<Codec, String> {
        let section: Section = Ok(tables);
        let bytes = postcard::to_stdvec(&section).map_err(|e| e.to_string())?;
        Codec::build(section?, *blake3::hash(&bytes).as_bytes())
    }

    fn build(tables: Tables, hash: [u8; 32]) -> Result<Codec, String> {
        tables.check()?;
        let alphabets: Vec<Alphabet> = tables.variables.iter().map(Alphabet::new).collect();
        let evaluation = match tables.structure {
            Structure::Regions(regions) => {
                Evaluation::Ordered { program: Program::new(&tables.variables, &regions), regions }
            }
            Structure::Graph(graph) => Evaluation::Unordered(graph),
        };
        Ok(Codec { model: Arc::new(Model { alphabets, evaluation, hash }) })
    }

    /// Variables, which are the columns of the rows.
    pub fn variables(&self) -> usize {
        self.model.alphabets.len()
    }

    /// Variable `v` has one of `0..values(v)`. 0 if there is no such variable.
    pub fn values(&self, variable: usize) -> u32 {
        self.model.alphabets.get(variable).map_or(0, |a| a.values() as u32)
    }

    /// The smallest unsigned type that holds every value.
    pub fn elem(&self) -> ElemType {
        match self.model.alphabets.iter().map(Alphabet::values).max() {
            Some(257..=65536) => ElemType::U16,
            Some(65537..) => ElemType::U32,
            _ => ElemType::U8,
        }
    }

    /// What names the circuit in streams.
    pub fn hash(&self) -> [u8; 32] {
        self.model.hash
    }

    /// Whether the circuit's structure allows ordered evaluation; without it the whole circuit is evaluated for each
    /// variable.
    pub fn is_ordered(&self) -> bool {
        matches!(self.model.evaluation, Evaluation::Ordered { .. })
    }

    /// Products and terms of sums that coding one row looks at.
    pub fn visits(&self) -> u64 {
        match &self.model.evaluation {
            Evaluation::Ordered { program, .. } => program.visits(),
            Evaluation::Unordered(graph) => unordered::visits(graph, self.variables()),
        }
    }

    /// The same for the naive way, which evaluates the whole circuit once for each variable.
    pub fn naive_visits(&self) -> u64 {
        let inner = |region: &Region| match region {
            Region::Leaf(_) => 0,
            Region::Inner(inner) => inner.mix_weights.len() + inner.terms.len(),
        };
        let elements = match &self.model.evaluation {
            Evaluation::Ordered { regions, .. } => regions.iter().map(inner).sum(),
            Evaluation::Unordered(graph) => graph.children.len(),
        };
        elements as u64 * self.variables() as u64
    }

    /// The stream of these rows: a tensor of integers, `[rows, variables]`.
    ///
    /// # Errors
    /// As [`Encoder::push`].
    pub fn encode(&self, rows: TensorView<'_>) -> Result<Vec<u8>> {
        let mut encoder = Encoder::new(self, rows.elem(), vec![])?;
        encoder.push(rows)?;
        Ok(encoder.finish()?.0)
    }

    /// The rows of a stream, which may take up to `max_bytes`.
    ///
    /// # Errors
    /// As [`Decoder::next`].
    pub fn decode(&self, stream: &[u8], max_bytes: u64) -> Result<Tensor> {
        let mut decoder = Decoder::new(self, stream)?;
        let elem = decoder.elem();
        let mut bytes = vec![];
        while let Some(rows) = decoder.next()? {
            if (bytes.len() + rows.bytes().len()) as u64 > max_bytes {
                return Err(CodecError::TooLarge { max: max_bytes }.into());
            }
            bytes.extend_from_slice(rows.bytes());
        }
        decoder.check_end()?;
        let count = bytes.len() / elem.size() / self.variables();
        let mut rows = Tensor::zeros(elem, &[count, self.variables()])?;
        rows.bytes_mut().copy_from_slice(&bytes);
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
