//! `kiln explain`: every class of error a user can meet, in one table that `docs/errors.md` is printed from.

use super::failure::{Failure, Result};
use super::output;

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $title:literal $text:literal)*) => {
        /// A class of errors.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Code { $($variant),* }

        impl Code {
            const ALL: &'static [Code] = &[$(Code::$variant),*];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),* }
            }

            /// The exit code: 1 the input or the environment is at fault, 2 the command line, 3 a comparison failed.
            pub(crate) const fn status(self) -> u8 {
                match self { $(Code::$variant => $status),* }
            }

            const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),* }
            }

            const fn text(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }
        }
    };
}

codes! {
    Read "E0101" 1 "a file cannot be read"
        "The operating system gave the reason. Look whether the path is right and whether you may read it."
    Write "E0102" 1 "an output cannot be written"
        "The operating system gave the reason: no such folder, no room, no permission. What Kiln had written is gone, and \
         what stood under its name before is still there. Only where a signal ended Kiln on a file system without files \
         that have no name, a hidden file .kiln-PID-N stays in the output's folder; it may be deleted."
    Format "E0103" 1 "the kind of a model cannot be told"
        "Kiln looks at the content: a folder with `config.json` and `model.safetensors` (or an index of shards) is a \
         Hugging Face model, and a text that starts with `module` is a .kir graph; circuits begin as \
         their formats say. `--format NAME` says it outright; \
         `kiln compile --help` lists the names."
    Architecture "E0104" 1 "the model is of an architecture that Kiln does not know"
        "The message lists the architectures that `config.json` may name. Nothing is guessed from similar ones: a model \
         that almost fits would compile to wrong numbers."
    Config "E0105" 1 "the model's settings are malformed, or ask for what Kiln does not compute"
        "A key of `config.json`, or of a file beside it, has a value of the wrong kind or out of range, or switches on a \
         variant of the computation that Kiln does not have. Kiln stops rather than ignore a key that changes the \
         result."
    Weights "E0106" 1 "weights are damaged, or do not fit the model's settings"
        "A tensor that `config.json` calls for is missing or has another type or shape: config and weights may be of two \
         different models. Or the file is not sound: the header of a safetensors file is checked before anything is read through it: its length, the types, that \
         offsets lie in the file, do not overlap and fit the shapes; the usual cause is a download that broke off, or a \
         Git LFS pointer in the place of the file. Then fetch the file again."
    Text "E0107" 1 "a text graph does not parse"
        "The message gives line and column, what was expected and what was found."
    Graph "E0108" 1 "a graph breaks the rules of its ops"
        "Each op has numbered constraints; the message names the node, the constraint, and where in the model it comes \
         from. In a .kir file that you wrote, mend the node. From any other model file this is a bug of Kiln."
    Option "E0109" 2 "an option does not fit the model"
        "An option names something that the model lacks (a dimension, an input, an entry, a pass) or sets a size that it \
         cannot have. The message lists what there is."
    Pass "E0110" 1 "a pass failed"
        "A pass of the compiler could not do what it is for, or left a graph that the verifier refuses. This is a bug of \
         Kiln: please report it with the model's config. `--disable PASS` may help until it is mended."
    CircuitFile "E0111" 1 "a circuit's file is malformed, or breaks what its format promises"
        "The message gives line or byte, what was expected and what was found. A circuit must be smooth (children of a sum \
         have the same variables) and decomposable (children of a product share none), or its answers would be wrong; \
         formats of learners also promise weights that add up to 1, and a vtree of the same name must be the circuit's own."
    Overwrite "E0112" 2 "an output is a file that is read"
        "Writing it would destroy the model, the artifact or the inputs, or one output by another. Links do not matter: it \
         is the same file under any name. Give the output another name."
    Unsupported "E0201" 1 "something in the model cannot be compiled"
        "All such places are listed, each with the reason. Where a target has no code for an op, another may: `kiln \
         targets`. An entry must give an output, and each of its symbolic sizes must be the size of an axis of an input, \
         as the inputs decide it when they arrive: `--shape` fixes sizes."
    Tool "E0202" 1 "a tool of code generation failed"
        "MLIR, LLVM or lld refused what Kiln gave them. This is a bug of Kiln, or a broken installation of LLVM 22: \
         `kiln doctor` shows which one is in use."
    NotAnArtifact "E0301" 1 "a file is not an artifact"
        "An artifact starts with Kiln's magic bytes. A model must be compiled first: kiln compile MODEL -o OUT.kiln"
    Version "E0302" 1 "an artifact has another format version"
        "The file was written by a compiler with another version of the format. Compile the model again, or use the \
         runtime of the release that wrote it."
    Damaged "E0303" 1 "an artifact is cut or damaged"
        "The length or a hash does not match. Copy or build the file again."
    Malformed "E0304" 1 "an artifact's content makes no sense"
        "Its hashes match but its manifest or plan breaks a rule of the format, so it was not written by a sound \
         compiler. Do not run it."
    Signature "E0305" 1 "an artifact's signature is missing or wrong"
        "The artifact is not signed by the key that is required, or was changed after it was signed."
    Machine "E0306" 1 "an artifact has no code for this machine"
        "The message lists the targets in the artifact, the level of this processor, and why no GPU serves: there is none, \
         its driver is missing or too old, or the artifact needs another one. Compile for what is here (kiln doctor): \
         kiln compile --target TARGET, which may be given several times; cpu beside a GPU's runs where there is no GPU."
    Load "E0307" 1 "the machine code in an artifact does not load"
        "The system does not let the program map code, or the code section is not as the loader needs it."
    Entry "E0308" 2 "an artifact has no entry of that name"
        "The message lists the entries. kiln inspect ART shows what each takes and gives."
    Inputs "E0309" 1 "inputs do not fit the model"
        "A name, type or shape is not what the entry takes. All that is wrong is listed, and then all that the entry \
         takes."
    Tensors "E0310" 1 "a file of tensors cannot be read or written"
        "Inputs come as .npz, .safetensors or, for models that take pictures, .png. Outputs go to .npz or .safetensors, \
         by the ending of the name."
    Memory "E0311" 1 "there is no memory"
        "The message says for what and how many bytes. Smaller inputs take less."
    Index "E0312" 1 "an element of an input is out of range"
        "An input holds what the entry does not take: a token id or another index beyond the table it is looked up in, a \
         length beyond the axis it is of, a coordinate that is infinite or NaN, a filler that is not behind all else. The \
         message says where it stands, what it is, and what is taken; `kiln inspect` shows it behind the type of each input. \
         Where the number was computed of inputs, the message names the node instead."
    Kernel "E0313" 1 "a kernel failed"
        "Machine code returned an error that it should not return. This is a bug of Kiln: please report it."
    Threads "E0314" 1 "threads cannot be had"
        "The number that was asked for is out of range, or the system refused to start them."
    Circuit "E0315" 1 "an artifact has no circuit that codes rows"
        "Rows are coded with the probabilities of a circuit over discrete variables. The artifact was made of another \
         model, or of a circuit with continuous variables."
    Stream "E0316" 1 "a stream of coded rows does not decode"
        "It is cut or damaged, no such stream, or was coded with another circuit: the artifact must be made of the same \
         model file as the one that encoded it."
    Loop "E0317" 1 "a loop reached its bound"
        "A loop whose end depends on the data has a declared maximum, so that it ends on any input. Its condition still held \
         when it had run that often. The message says where it is and how often it may run. The inputs may be such that \
         the computation does not converge; otherwise the maximum that the model declares is too small: for a .kir graph it \
         is the attribute `max` of the `while`."
    Tolerance "E0401" 3 "outputs differ by more than the tolerance"
        "An output passes if its relative L2 distance to the reference is at most `--rtol`. Where no element of the \
         reference is larger than `--atol` a relative distance says nothing: there the largest absolute difference must be at \
         most `--atol`. Elements that are NaN on both sides are counted and left out of the distances; NaN on one side \
         only, or another shape, never passes."
    Unexplained "E0501" 2 "there is no error of that code"
        "kiln explain without a code lists all there are."
}

/// Say what an error code means and what to do; without a code, list them all
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A code as it stands in a message, such as E0106
    code: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn object(code: Code) -> serde_json::Value {
    serde_json::json!({"code": code.name(), "title": code.title(), "text": code.text(), "exit": code.status()})
}

pub(crate) fn run(args: Args) -> Result<()> {
    let Some(name) = args.code else {
        let all: Vec<_> = Code::ALL.iter().map(|c| object(*c)).collect();
        let lines = || Code::ALL.iter().map(|c| format!("{}  {}\n", c.name(), c.title())).collect();
        return output::facts(args.json, serde_json::json!({"codes": all}), lines);
    };
    let code = Code::ALL.iter().find(|c| c.name().eq_ignore_ascii_case(&name)).ok_or_else(|| {
        let (first, last) = (Code::ALL[0].name(), Code::ALL[Code::ALL.len() - 1].name());
        Failure::new(Code::Unexplained, format_args!("no code `{name}`; they run from {first} to {last}"))
    })?;
    output::facts(args.json, object(*code), || format!("{}: {}\n\n{}\n", code.name(), code.title(), code.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let mut page = String::from(
            "# Errors\n\nEvery message of `kiln` starts with one of these codes; `kiln explain CODE` prints its text. This \
             page is made from the\ntable in `src/cli/explain.rs`; `KILN_BLESS=1 cargo test -p kiln errors_page` writes \
             it again.\n",
        );
        for code in Code::ALL {
            page +=
                &format!("\n## {}: {}\n\n{} (exit code {})\n", code.name(), code.title(), code.text(), code.status());
        }
        page
    }

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(Code::ALL.windows(2).all(|w| w[0].name() < w[1].name()));
    }

    #[test]
    fn errors_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
        if std::env::var_os("KILN_BLESS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "write it again with KILN_BLESS=1");
    }
}
