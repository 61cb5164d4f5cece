//! The program `kiln` as a user meets it: exit codes, what goes to which stream, JSON, and the texts of errors.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    fn of(output: std::process::Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        // A program that a signal ends has no exit code.
        let code = output.status.code().unwrap_or(-1);
        Done { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    fn exits(self, code: i32) -> Done {
        assert_eq!(self.code, code, "\n-- stdout\n{}\n-- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Done, with nothing on standard error.
    #[track_caller]
    fn well(self) -> Done {
        let done = self.exits(0);
        assert_eq!(done.stderr, "");
        done
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Done {
        let missing: Vec<&&str> = words.iter().filter(|w| !self.stderr.contains(**w)).collect();
        assert!(missing.is_empty(), "{missing:?} not in\n{}", self.stderr);
        self
    }

    /// The last line of standard output.
    #[track_caller]
    fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"));
        assert!(value.is_object());
        value
    }
}

fn kiln<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.args(args).current_dir(ROOT).stdin(Stdio::null());
    Done::of(command.output().expect("the program starts"))
}

fn words(line: &str) -> Done {
    kiln(line.split_whitespace())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

const VIT: &str = "examples/models/digits-vit";
const REFERENCE: &str = "tests/data/digits-vit.safetensors";

/// The example model, compiled once for all tests.
fn artifact() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-digits-vit.kiln");
        let path = path.to_str().unwrap().to_owned();
        kiln(["compile", VIT, "-o", &path]).well();
        path
    })
}

/// `y = x * 2 + 1` on a vector of any length, as text.
const LINE: &str = "module @line stage=imported {
  dim N = 1..1000
  entry @forward(%x: f32[N]) -> (y: f32[N]) {
    %0 = mul %x, 2.0 : f32[N]
    %1 = add %0, 1.0 : f32[N]
    return %1
  }
}
";

fn line(folder: &Path) -> PathBuf {
    let path = folder.join("line.kir");
    fs::write(&path, LINE).unwrap();
    path
}

/// A safetensors file with one f32 tensor.
fn tensors(path: &Path, name: &str, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = serde_json::json!({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, bytes.len()]}});
    let header = header.to_string();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(&bytes).unwrap();
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let wrong = [
        "",
        "translate model",
        "compile",
        "compile examples/models/digits-vit",
        "compile examples/models/digits-vit -o x.kiln --fast",
        "compile examples/models/digits-vit -o x.kiln --weights q8",
        "compile examples/models/digits-vit -o x.kiln --weights q4",
        "compile examples/models/digits-vit -o x.kiln --early-exit 0.9",
        "compile examples/models/digits-vit -o x.kiln --target cuda:sm_20",
        "compile examples/models/digits-vit -o x.kiln --target cpu:z80",
        "compile examples/models/digits-vit -o x.kiln --format onnx",
        "compile examples/models/digits-vit -o x.kiln --exactness e9",
        "compile examples/models/digits-vit -o x.kiln --emit ptx",
        "compile examples/models/digits-vit -o x.kiln --shape pixel_values",
        "compile examples/models/digits-vit -o x.kiln --shape pixel_values=0x1",
        "compile examples/models/digits-vit -o x.kiln --max B=-1",
        "run x.kiln --threads 0",
        "compare a b --rtol nan",
        "generate x.kiln --prompt hello",
        "sample x.kiln",
        "encode x.kiln data",
        "decode x.kiln data",
    ];
    for args in wrong {
        let done = words(args).exits(2);
        assert_eq!(done.stdout, "", "{args}");
        assert!(!done.stderr.is_empty(), "{args}");
    }
}

#[test]
fn options_that_do_not_fit_the_model_end_with_2() {
    let folder = folder();
    let out = folder.path().join("x.kiln");
    let compile = |more: &str| {
        let args = ["compile", VIT, "-o", out.to_str().unwrap()];
        let done = kiln(args.into_iter().chain(more.split_whitespace())).exits(2);
        assert!(!out.exists());
        done
    };
    compile("--shape pixels=1x1x32x32").says(&["E0109", "pixels", "pixel_values"]);
    compile("--shape pixel_values=1x1x64x64").says(&["E0109", "--shape pixel_values", "32", "64"]);
    compile("--max S=5").says(&["E0109", "--max"]);
    compile("--disable speed").says(&["E0109", "unknown pass speed", "fuse-linear"]);
    compile("--passes speed,fuse-linear,luck").says(&["unknown pass speed, unknown pass luck"]);
    compile("--disable legalize").says(&["E0109", "legalize", "cannot be disabled"]);
}

#[test]
fn help_and_version_are_asked_for() {
    assert!(words("--version").well().stdout.starts_with("kiln "));
    let verbs = "compile run bench inspect opt eval compare check doctor explain targets";
    let help = words("--help").well().stdout;
    for verb in verbs.split(' ') {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}");
        words(&format!("{verb} --help")).well();
    }
}

#[test]
fn explain_knows_every_code() {
    let list = words("explain --json").well().json();
    let codes = list["codes"].as_array().unwrap();
    assert!(codes.len() > 20);
    for code in codes {
        let name = code["code"].as_str().unwrap();
        let one = words(&format!("explain {name}")).well();
        assert!(one.stdout.contains(code["title"].as_str().unwrap()));
    }
    words("explain E9999").exits(2).says(&["E9999", "E0101"]);
}

#[test]
fn targets_and_doctor_say_what_is_here() {
    let targets = words("targets --json").well().json();
    let names: Vec<&str> = targets["targets"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    let expected = ["cpu:x86-64-v2", "cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:aarch64", "cuda:sm_80", "cuda:sm_90a"];
    assert_eq!(names, expected);
    let of = |name: &str| &targets["targets"].as_array().unwrap()[names.iter().position(|n| *n == name).unwrap()];
    let gpu = serde_json::json!({"name": "cuda:sm_90a", "ptx": "8.0", "runs_here": false});
    assert_eq!((&of("cpu:x86-64-v3")["vector_bits"], of("cuda:sm_90a")), (&serde_json::json!(256), &gpu));
    assert!(words("targets").well().stdout.contains("cpu:x86-64-v3"));
    let doctor = words("doctor --json").well().json();
    assert!(doctor["llvm"].as_str().unwrap().starts_with("22."), "{doctor}");
    assert!(doctor["threads"].as_u64().unwrap() >= 1);
    assert_eq!(doctor["gpu"], Value::Null);
}

#[test]
fn a_picture_goes_in_and_a_digit_comes_out() {
    let done = kiln(["run", artifact(), "--inputs", "examples/digit.png"]).well();
    assert!(done.stdout.contains("class 3: 3"), "{}", done.stdout);
    let json = kiln(["run", artifact(), "--inputs", "examples/digit.png", "--json"]).well().json();
    assert_eq!(json["classes"][0]["label"], "3");
    assert_eq!(json["outputs"][0]["shape"], serde_json::json!([1, 10]));
}

#[test]
fn compile_reports_what_it_made() {
    let folder = folder();
    let out = folder.path().join("vit.kiln");
    let json = kiln(["compile", VIT, "-o", out.to_str().unwrap(), "--json"]).well().json();
    assert_eq!(json["file_bytes"].as_u64(), Some(fs::metadata(&out).unwrap().len()));
    assert_eq!(json["entries"][0]["name"], "forward");
    assert!(json["kernels"].as_u64().unwrap() > 0);
    assert!(json["targets"].as_array().unwrap().iter().any(|t| t == "cpu:x86-64-v3"));
    assert!(!json["stages"].as_array().unwrap().is_empty());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    let inspect = kiln(["inspect", out.to_str().unwrap(), "--plan", "--memory", "--rewrites", "--json"]).well().json();
    assert_eq!(inspect["entries"][0]["name"], "forward");
    assert!(inspect["targets"].as_array().unwrap().iter().all(|t| t["kernels"] == json["kernels"]), "{inspect}");
    assert!(!inspect["rewrites"]["rewrites"].as_array().unwrap().is_empty());
    let text = kiln(["inspect", out.to_str().unwrap(), "--rewrites"]).well().stdout;
    assert!(text.contains("fuse-attention") && text.contains("section weights"), "{text}");
}

#[test]
fn an_artifact_for_gpus_runs_on_the_processor_that_it_has_code_for() {
    let folder = folder();
    let (both, gpu) = (folder.path().join("both.kiln"), folder.path().join("gpu.kiln"));
    let (both, gpu) = (both.to_str().unwrap(), gpu.to_str().unwrap());
    let args = ["compile", VIT, "--target", "cuda:sm_80", "--target", "cpu:native", "--json", "-o", both];
    let targets = kiln(args).well().json()["targets"].as_array().unwrap().len();
    assert_eq!(targets, 2);
    assert!(kiln(["run", both, "--inputs", "examples/digit.png"]).well().stdout.contains("class 3: 3"));
    let run = ["run", both, "--inputs", "examples/digit.png", "--json", "--stats", "--target"];
    let json = kiln(run.into_iter().chain(["cpu"])).well().json();
    assert!(
        json["target"].as_str().unwrap().starts_with("cpu:") && json["stats"]["target"] == json["target"],
        "{json}"
    );
    let known = [json["target"].as_str().unwrap(), "cuda:sm_80"];
    kiln(run.into_iter().chain(["nonsense"])).exits(1).says(&["no target `nonsense`", known[0], known[1]]);
    kiln(run.into_iter().chain(["cuda:sm_80"])).exits(1).says(&["cuda:sm_80 is asked for"]);
    let compared = kiln(["compare", both, REFERENCE, "--target", "cpu", "--json"]).well().json();
    assert_eq!(compared["target"], json["target"]);
    kiln(["compile", VIT, "--target", "cuda:sm_90a", "-o", gpu]).well();
    kiln(["run", gpu, "--inputs", "examples/digit.png"]).exits(1).says(&["cuda:sm_90a"]);
    let ptx = kiln(["compile", VIT, "--target", "cuda:sm_80", "--emit", "ptx"]).well().stdout;
    assert!(ptx.contains(".target sm_80") && ptx.contains(".visible .entry row_"), "{}", &ptx[..500]);
}

/// A body that is one kernel, and takes more than any kernel is handed.
#[test]
fn a_loop_that_takes_too_much_is_no_artifact_at_fault() {
    let folder = folder();
    let names = |sigil: &str| (0..1100).map(|i| format!("%a{i}{sigil}")).collect::<Vec<_>>();
    let adds: String = (1..1100).map(|i| format!("%b{i} = add %b{}, %a{i} : f32[8,16]\n", i - 1)).collect();
    let text = format!(
        "module @m stage=imported {{ entry @forward({}, %n: i64[]) -> (y: f32[8,16]) {{
           %0 = for %n, %a0 body(%i: i64[], %b0: f32[8,16]) {{ {adds} yield %b1099 }} : f32[8,16]
           return %0 }} }}",
        names(": f32[8,16]").join(", ")
    );
    let (graph, out) = (folder.path().join("loop.kir"), folder.path().join("loop.kiln"));
    fs::write(&graph, text).unwrap();
    let done = kiln(["compile", graph.to_str().unwrap(), "-o", out.to_str().unwrap(), "--target", "cpu:native"]);
    let done = done.exits(1).says(&["E0201", "handed at most 1024 tensors", "region"]);
    assert!(!done.stderr.contains("malformed"), "{}", done.stderr);
}

#[test]
fn several_targets_share_one_artifact() {
    let folder = folder();
    let out = folder.path().join("line.kiln");
    let targets = ["--target", "cpu:x86-64-v2", "--target", "cpu:x86-64-v4", "--target", "cpu:aarch64"];
    let args =
        ["compile", line(folder.path()).to_str().unwrap(), "-o", out.to_str().unwrap(), "--json"].map(str::to_owned);
    let json = kiln(args.into_iter().chain(targets.map(str::to_owned))).well().json();
    assert_eq!(json["targets"], serde_json::json!(["cpu:aarch64", "cpu:x86-64-v2", "cpu:x86-64-v4"]));
    tensors(&folder.path().join("in.safetensors"), "x", &[3], &[0.0, 1.0, -2.0]);
    let json = kiln([
        "run",
        out.to_str().unwrap(),
        "--inputs",
        folder.path().join("in.safetensors").to_str().unwrap(),
        "--json",
    ]);
    assert_eq!(json.well().json()["outputs"][0]["first"], serde_json::json!([1.0, 3.0, -3.0]));
}

#[test]
fn bench_keeps_its_contract() {
    let folder = folder();
    let out = folder.path().join("out.npz");
    let args = ["bench", artifact(), "--inputs", REFERENCE, "--outputs", out.to_str().unwrap()];
    // The reference holds outputs too, which are no inputs.
    kiln(args).exits(1).says(&["logits", "pixel_values"]);
    let args = ["bench", artifact(), "--inputs", "examples/digit.png", "--outputs", out.to_str().unwrap()];
    let json = kiln(args.into_iter().chain("--iterations 3 --warmup 1 --threads 1 --json".split(' '))).well().json();
    assert_eq!(json["latencies_s"].as_array().unwrap().len(), 3);
    assert_eq!(json["threads"], 1);
    assert_eq!(json["outputs"], out.to_str().unwrap());
    assert!(json["peak_rss_bytes"].as_u64().unwrap() > 0 && json["load_s"].as_f64().unwrap() > 0.0);
    assert!(out.exists());
}

#[test]
fn compare_passes_and_fails() {
    let json = kiln(["compare", artifact(), REFERENCE, "--json"]).well().json();
    assert_eq!(json["passed"], true);
    assert!(json["outputs"][0]["rel_l2"].as_f64().unwrap() < 1e-5);
    kiln(["compare", artifact(), VIT]).well();
    let done = kiln(["compare", artifact(), REFERENCE, "--rtol", "0", "--json"]).exits(3).says(&["E0401", "logits"]);
    assert_eq!(done.json()["passed"], false);
    // Wrong data is an error, not a difference.
    kiln(["compare", artifact(), "tests/data/nothing.safetensors"]).exits(1).says(&["E0101", "nothing.safetensors"]);
    let folder = folder();
    let nan = folder.path().join("nan.safetensors");
    tensors(&nan, "logits", &[1, 10], &[f32::NAN; 10]);
    let args = ["compare", artifact(), nan.to_str().unwrap(), "--inputs"];
    let input = folder.path().join("in.safetensors");
    tensors(&input, "pixel_values", &[1, 1, 32, 32], &[0.5; 1024]);
    kiln(args.into_iter().chain([input.to_str().unwrap(), "--rtol", "1e30"]))
        .exits(3)
        .says(&["E0401", "10 on one side"]);
}

/// Outputs of any length, beside a reference that has three.
#[test]
fn compare_names_shapes_that_differ() {
    let folder = folder();
    let (out, reference, input) =
        (folder.path().join("line.kiln"), folder.path().join("y.safetensors"), folder.path().join("x.safetensors"));
    kiln([Path::new("compile"), &line(folder.path()), Path::new("-o"), &out]).well();
    tensors(&input, "x", &[2], &[1.0, 2.0]);
    tensors(&reference, "y", &[3], &[3.0, 5.0, 7.0]);
    let args = [&out, &reference].map(|p| p.to_str().unwrap());
    let args = ["compare", args[0], args[1], "--inputs", input.to_str().unwrap()];
    let done = kiln(args).exits(3).says(&["E0401", "output y: expected the shape [3], found [2]"]);
    assert!(!done.stderr.contains("inf"), "{}", done.stderr);
    let json = kiln(args.into_iter().chain(["--json"])).exits(3).json();
    assert_eq!(json["outputs"][0]["expected_shape"], serde_json::json!([3]));
}

/// Of all that is shown as text, the one JSON object stays the only one.
#[test]
fn inspect_prints_one_json_object() {
    for more in [&["--rewrites"][..], &["--rewrites", "--plan", "--memory"], &[]] {
        let done = kiln(["inspect", artifact(), "--json"].iter().chain(more)).well();
        let objects = done.stdout.lines().filter(|l| l.starts_with('{')).count();
        assert_eq!(objects, 1, "{}", done.stdout);
        assert_eq!(done.json().get("rewrites").is_some(), !more.is_empty());
    }
}

#[test]
fn compare_judges_zeros_by_difference_and_counts_nan() {
    let folder = folder();
    let graph = folder.path().join("odd.kir");
    let text = "module @odd stage=imported {
  dim N = 1..1000
  entry @forward(%x: f32[N]) -> (nan: f32[N], zero: f32[N]) {
    %0 = mul %x, %x : f32[N]
    %1 = add %0, 1.0 : f32[N]
    %2 = neg %1 : f32[N]
    %3 = log %2 : f32[N]
    %4 = mul %x, 0.1 : f32[N]
    %5 = mul %x, 0.2 : f32[N]
    %6 = mul %x, 0.3 : f32[N]
    %7 = add %4, %5 : f32[N]
    %8 = sub %7, %6 : f32[N]
    return %3, %8
  }
}
";
    fs::write(&graph, text).unwrap();
    let (graph, out) = (graph.to_str().unwrap(), folder.path().join("odd.kiln"));
    kiln(["compile", graph, "-o", out.to_str().unwrap()]).well();
    let done = kiln(["compare", out.to_str().unwrap(), graph, "--json"]).well();
    let outputs = &done.json()["outputs"];
    assert_eq!((&outputs[0]["nan_in_both"], &outputs[0]["nan_in_one"]), (&3.into(), &0.into()), "{outputs}");
    assert_eq!((&outputs[1]["judged_by"], &outputs[1]["passed"]), (&"max_abs".into(), &true.into()), "{outputs}");
    kiln(["compare", out.to_str().unwrap(), graph, "--atol", "0"]).exits(3).says(&["output zero"]);
}

/// Inputs are made up for the artifact, which may take less than the model.
#[test]
fn compare_makes_up_inputs_that_the_artifact_takes() {
    let folder = folder();
    let graph = line(folder.path());
    let (graph, out) = (graph.to_str().unwrap(), folder.path().join("fixed.kiln"));
    for more in [["--shape", "x=5"], ["--max", "N=2"], ["--shape", "x=M"]] {
        kiln(["compile", graph, "-o", out.to_str().unwrap()].into_iter().chain(more)).well();
        kiln(["compare", out.to_str().unwrap(), graph]).well();
    }
    // Sizes that the model fixes are those of the inputs.
    kiln(["compile", graph, "-o", out.to_str().unwrap()]).well();
    kiln(["compare", out.to_str().unwrap(), graph, "--shape", "x=11"]).well();
    kiln(["compare", out.to_str().unwrap(), graph, "--shape", "x=1001"]).exits(2).says(&["1001"]);
}

/// What elements inputs may have is declared: inputs are made up so, and others are refused alike by all verbs.
#[test]
fn inputs_with_elements_that_are_not_accepted_are_refused() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (graph, out, input) = (path("picks.kir"), path("picks.kiln"), path("in.safetensors"));
    let text = "module @picks stage=imported {
  dim B = 1..9
  dim N = 1..9
  entry @forward(%x: f32[B,N] finite, %at: i64[B,N] in 0..N - 1 filled, %n: i32[B] in 1..N, %w: i8[2] size) -> (y: f32[B,N]) {
    %0 = max %at, 0 : i64[B,N]
    %1 = gather %x, %0 axis=1 batch=1 : f32[B,N]
    %2 = reshape %n to=[B,1] : i32[B,1]
    %3 = convert %2 to=f32 : f32[B,1]
    %4 = mul %1, %3 : f32[B,N]
    return %4
  }
}
";
    fs::write(&graph, text).unwrap();
    assert_eq!(kiln(["opt", &graph, "--passes", "cse"]).well().stdout, text);
    kiln(["compile", &graph, "-o", &out]).well();
    kiln(["compare", &out, &graph]).well();
    let shown = kiln(["inspect", &out]).well().stdout;
    let ports = "x: f32[B, N] finite, at: i64[B, N] in 0..N - 1, then -1, n: i32[B] in 1..N, \
                 w: i8[2] of any content, as its size is what counts";
    assert!(shown.contains(ports), "{shown}");
    let write = |x: [f32; 2], at: [i64; 2], n: i32| {
        let parts: [(&str, &str, &[usize], Vec<u8>); 4] = [
            ("at", "I64", &[1, 2], at.iter().flat_map(|v| v.to_le_bytes()).collect()),
            ("x", "F32", &[1, 2], x.iter().flat_map(|v| v.to_le_bytes()).collect()),
            ("n", "I32", &[1], n.to_le_bytes().to_vec()),
            ("w", "I8", &[2], vec![9, 255]),
        ];
        let (mut header, mut bytes) = (serde_json::Map::new(), vec![]);
        for (name, dtype, shape, data) in parts {
            let range = [bytes.len(), bytes.len() + data.len()];
            header.insert(name.into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
            bytes.extend(data);
        }
        let header = Value::Object(header).to_string();
        fs::write(&input, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat()).unwrap();
    };
    let verbs = [vec!["run", &out], vec!["eval", &graph], vec!["compare", &out, &graph]];
    let all = || verbs.iter().map(|verb| kiln(verb.iter().copied().chain(["--inputs", &input])));
    write([1.0, 2.0], [1, -1], 2);
    all().for_each(|done| drop(done.well()));
    write([1.0, f32::NAN], [2, -1], 3);
    let expected = [
        "E0312",
        "input x[0, 1] is NaN, expected a finite number",
        "input at[0, 0] is 2, expected 0 to 1",
        "input n[0] is 3, expected 1 to 2",
    ];
    all().for_each(|done| drop(done.exits(1).says(&expected)));
    write([f32::INFINITY, 2.0], [-1, 0], 1);
    let expected = ["x[0, 0] is inf", "at[0, 0] is -1, expected -1 only behind all others, found 0 behind it"];
    all().for_each(|done| drop(done.exits(1).says(&expected)));
}

#[test]
fn a_loop_at_its_bound_says_so() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (graph, out, input) = (path("loop.kir"), path("loop.kiln"), path("in.safetensors"));
    let text = "module @loop stage=imported {
  dim B = 1..9
  entry @forward(%x: f32[B]) -> (y: f32[B]) {
    %0 = while %x max=4 condition(%1: f32[B]) {
      %2 = compare %1, 8.0 dir=lt : i1[B]
      yield %2
    } body(%3: f32[B]) {
      %4 = add %3, 1.0 : f32[B]
      yield %4
    } : f32[B]
    return %0
  }
}
";
    fs::write(&graph, text).unwrap();
    kiln(["compile", &graph, "-o", &out]).well();
    let verbs = [vec!["run", &out], vec!["eval", &graph], vec!["compare", &out, &graph]];
    let all = || verbs.iter().map(|verb| kiln(verb.iter().copied().chain(["--inputs", &input])));
    tensors(Path::new(&input), "x", &[2], &[4.0, 9.0]);
    all().for_each(|done| drop(done.well()));
    tensors(Path::new(&input), "x", &[2], &[4.0, 3.5]);
    all().for_each(|done| drop(done.exits(1).says(&["E0317", "4"])));
}

#[test]
fn an_index_out_of_range_names_its_place_value_and_range() {
    let folder = folder();
    let graph = folder.path().join("lookup.kir");
    let text = "module @lookup stage=imported {
  dim B = 1..9
  dim S = 1..9
  const %table : f32[3,2] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
  entry @forward(%ids: f32[B,S]) -> (y: f32[B,S,2]) {
    %0 = convert %ids to=i64 : i64[B,S]
    %1 = gather %table, %0 axis=0 : f32[B,S,2]
    return %1
  }
  entry @direct(%ids: i64[B,S]) -> (y: f32[B,S,2]) {
    %0 = gather %table, %ids axis=0 : f32[B,S,2]
    return %0
  }
}
";
    fs::write(&graph, text).unwrap();
    let out = folder.path().join("lookup.kiln");
    kiln(["compile", graph.to_str().unwrap(), "-o", out.to_str().unwrap()]).well();
    let input = folder.path().join("in.safetensors");
    let run = |entry: &str| {
        let args = ["run", out.to_str().unwrap(), "--entry", entry, "--inputs", input.to_str().unwrap()];
        kiln(args).exits(1).says(&["E0312"])
    };
    tensors(&input, "ids", &[2, 3], &[0.0, 1.0, 2.0, 2.0, -7.0, 1.0]);
    run("forward").says(&["a computed index is -7, expected an index from 0 to 2"]);
    let bytes: Vec<u8> = [0i64, 1, 2, 2, 3, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = r#"{"ids":{"dtype":"I64","shape":[2,3],"data_offsets":[0,48]}}"#;
    fs::write(&input, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat()).unwrap();
    run("direct").says(&["gather: input ids[1, 1] is 3, expected an index from 0 to 2"]);
    let args = ["eval", graph.to_str().unwrap(), "--entry", "direct", "--inputs", input.to_str().unwrap()];
    kiln(args).exits(1).says(&["E0312", "index 3 is outside of an axis of size 3, in input ids[1, 1]"]);
}

/// What the verifier cannot know of sizes, a call is asked: nothing is read beyond a tensor.
#[test]
fn sizes_that_a_graph_cannot_take_are_refused_before_it_runs() {
    let folder = folder();
    let graph = folder.path().join("window.kir");
    let text = "module @window stage=imported {
  dim B = 0..65536
  entry @forward(%x: f32[B]) -> (y: f32[8], best: i64[]) {
    %0 = slice %x axis=0 start=5 end=13 : f32[8]
    %1 = argmax %x axis=0 keep=false : i64[]
    return %0, %1
  }
  entry @largest(%x: f32[B]) -> (y: f32[9]) {
    %0, %1 = topk %x axis=0 k=9 : f32[9], i64[9]
    return %0
  }
  entry @best(%x: f32[B]) -> (y: i64[]) {
    %0 = argmax %x axis=0 keep=false : i64[]
    return %0
  }
}
";
    fs::write(&graph, text).unwrap();
    let out = folder.path().join("window.kiln");
    kiln(["compile", graph.to_str().unwrap(), "-o", out.to_str().unwrap()]).well();
    let input = folder.path().join("x.safetensors");
    let run = |entry: &str, size: usize| {
        tensors(&input, "x", &[size], &vec![1.0; size]);
        kiln(["run", out.to_str().unwrap(), "--entry", entry, "--inputs", input.to_str().unwrap()])
    };
    let few = run("forward", 12).exits(1).says(&[
        "E0309",
        "slice",
        "5..13 step 1 of size B: B - 13 is -1, expected 0 or more; B is 12",
    ]);
    assert!(!few.stderr.contains("argmax"), "{}", few.stderr);
    run("forward", 13).well();
    run("largest", 8).exits(1).says(&["E0309", "topk", "C2: k is 9, the axis has size B: B - 9 is -1"]);
    run("largest", 9).well();
    let eval = ["eval", graph.to_str().unwrap(), "--entry", "largest", "--inputs", input.to_str().unwrap()];
    tensors(&input, "x", &[8], &[1.0; 8]);
    kiln(eval).exits(1).says(&["E0309", "topk"]);
    run("best", 0).exits(1).says(&["E0309", "argmax", "C2: axis 0 of f32[B]: B - 1 is -1"]);
    run("best", 1).well();
}

#[test]
fn sizes_that_no_machine_has_are_refused_when_compiling() {
    let folder = folder();
    let graph = folder.path().join("vast.kir");
    let text = "module @vast stage=imported {
  entry @f(%x: f32[]) -> (y: f32[4294967296,4294967296,4]) {
    %0 = broadcast %x to=[4294967296,4294967296,4] : f32[4294967296,4294967296,4]
    return %0
  }
}
";
    fs::write(&graph, text).unwrap();
    kiln(["check", graph.to_str().unwrap()]).exits(1).says(&["f32[4294967296,4294967296,4] takes at least"]);
}

#[test]
fn files_that_cannot_be_written_are_named_as_such() {
    for args in [
        ["bench", artifact(), "--inputs", "examples/digit.png", "--iterations", "1", "--profile", "/dev/full"],
        ["run", artifact(), "--inputs", "examples/digit.png", "--threads", "1", "--outputs", "/dev/full/x.npz"],
    ] {
        kiln(args).exits(1).says(&["E0102", "/dev/full"]);
    }
    kiln(["run", artifact(), "--inputs", "no/such.npz"]).exits(1).says(&["E0101", "no/such.npz"]);
    // A picture is no input of the interpreter.
    let done = kiln(["eval", VIT, "--inputs", "examples/digit.png"]).exits(1).says(&["E0310", "digit.png"]);
    assert!(!done.stderr.contains("or .png"), "{}", done.stderr);
    kiln(["run", artifact(), "--inputs", "README.md"]).exits(1).says(&["E0310", "or .png"]);
}

#[test]
fn opt_prints_graphs_that_it_reads_again() {
    let folder = folder();
    let graph = line(folder.path());
    let graph = graph.to_str().unwrap();
    let same = kiln(["opt", graph, "--passes", "cse"]).well();
    assert_eq!(same.stdout, LINE);
    let out = folder.path().join("out.kir");
    kiln(["opt", graph, "-o", out.to_str().unwrap()]).well();
    let legal = fs::read_to_string(&out).unwrap();
    assert!(legal.contains("stage=legal") && legal.contains("fusion"), "{legal}");
    assert_eq!(kiln(["opt", out.to_str().unwrap(), "--passes", "cse"]).well().stdout, legal);
    let each = kiln(["opt", graph, "--print-changed"]).well().stdout;
    assert!(each.contains("// after canonicalize\n"), "{each}");
    assert!(each.trim_end().ends_with('}'));
    kiln(["opt", graph, "--passes", "speed"]).exits(2).says(&["E0109", "speed", "canonicalize"]);
}

#[test]
fn eval_is_what_a_graph_means() {
    let folder = folder();
    let graph = line(folder.path());
    let input = folder.path().join("in.safetensors");
    tensors(&input, "x", &[2], &[1.5, -1.0]);
    let out = folder.path().join("out.npz");
    let args = ["eval", graph.to_str().unwrap(), "--inputs", input.to_str().unwrap()];
    let done = kiln(args.into_iter().chain(["--outputs", out.to_str().unwrap(), "--json"])).well();
    assert_eq!(done.json()["outputs"][0]["first"], serde_json::json!([4.0, -1.0]));
    assert!(fs::read(&out).unwrap().starts_with(b"PK"));
    tensors(&input, "z", &[2], &[1.5, -1.0]);
    kiln(args).exits(1).says(&["E0309", "z", "x: f32[N]"]);
    kiln(args.into_iter().chain(["--entry", "backward"])).exits(2).says(&["E0308", "backward", "forward"]);
}

#[test]
fn emit_prints_every_stage() {
    let folder = folder();
    let graph = line(folder.path());
    let emit = |stage: &str| {
        let args = ["compile", graph.to_str().unwrap(), "--target", "cpu:x86-64-v3", "--emit", stage];
        kiln(args).well().stdout
    };
    assert!(emit("kir").contains("stage=legal"));
    assert!(emit("mlir").contains("func.func"));
    assert!(emit("llvm").contains("define"));
    assert!(emit("asm").contains(".globl"));
    let object = folder.path().join("line.o");
    // The ending says what is wanted.
    let args = ["compile", graph.to_str().unwrap(), "-o", object.to_str().unwrap()];
    kiln(args.into_iter().chain(["--target", "cpu:aarch64"])).well();
    assert!(fs::read(&object).unwrap().starts_with(b"\x7fELF"));
    kiln(args).exits(2).says(&["E0109", "3 objects"]);
    let args = ["compile", graph.to_str().unwrap(), "--emit", "obj", "-o", folder.path().to_str().unwrap()];
    kiln(args).well();
    let objects = fs::read_dir(folder.path()).unwrap().filter(|f| {
        let name = f.as_ref().unwrap().file_name().to_string_lossy().into_owned();
        name.starts_with("cpu-x86-64-v") && name.ends_with(".o")
    });
    assert_eq!(objects.count(), 3);
}

#[test]
fn check_lists_everything_at_once() {
    let json = kiln(["check", VIT, "--json"]).well().json();
    assert_eq!((&json["ok"], &json["format"]), (&Value::Bool(true), &Value::from("hf")));
    let folder = folder();
    let model = folder.path();
    fs::copy(Path::new(ROOT).join(VIT).join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let config = fs::read_to_string(Path::new(ROOT).join(VIT).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["hidden_act"] = "relu17".into();
    config["layer_norm_eps"] = "small".into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let done = kiln(["check", model.to_str().unwrap(), "--json"]).exits(1).says(&[
        "E0105",
        "hidden_act",
        "relu17",
        "layer_norm_eps",
    ]);
    let json = done.json();
    assert_eq!(json["ok"], false);
    assert!(json["errors"].as_array().unwrap().len() >= 2, "{json}");
}

/// What the files do not show, but planning does.
#[test]
fn check_refuses_what_compile_refuses() {
    let folder = folder();
    let path = folder.path().join("graph.kir");
    let out = folder.path().join("graph.kiln");
    let module = |body: &str| format!("module @m stage=imported {{\n{body}}}\n");
    let cases: [(String, &[&str]); 5] = [
        (module(""), &["module @m: it has no entry"]),
        (module("  entry @f(%x: f32[2]) -> () {\n    return\n  }\n"), &["entry @f: it has no output"]),
        (
            module(
                "  dim B = 1..9\n  entry @f(%x: f32[B*B]) -> (y: f32[B*B]) {\n    %0 = exp %x : f32[B*B]\n    return %0\n  }\n",
            ),
            &["entry @f: nothing decides B"],
        ),
        (
            module(
                "  dim B = 1..9\n  entry @f(%x: f32[1]) -> (y: f32[B]) {\n    %0 = broadcast %x to=[B] : f32[B]\n    return %0\n  }\n",
            ),
            &["entry @f: nothing decides B"],
        ),
        // All at once.
        (
            module(
                "  entry @f(%x: i32[2,3], %y: i32[3,4]) -> (z: i32[2,4]) {\n    %0 = matmul %x, %y : i32[2,4]\n    \
                 return %0\n  }\n  entry @g(%x: f32[2]) -> () {\n    return\n  }\n",
            ),
            &["no product of i32", "entry @g: it has no output"],
        ),
    ];
    for (text, words) in &cases {
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let check = kiln(["check", path, "--json"]).exits(1).says(words).says(&["E0201"]);
        let json = check.json();
        assert_eq!(
            (&json["ok"], json["errors"].as_array().unwrap().len()),
            (&Value::Bool(false), words.len()),
            "{json}"
        );
        assert!(json["errors"].as_array().unwrap().iter().all(|e| e["code"] == "E0201" && e["message"].is_string()));
        kiln(["compile", path, "-o", out.to_str().unwrap()]).exits(1).says(words).says(&["E0201"]);
        assert!(!out.exists());
    }
    fs::write(&path, LINE).unwrap();
    kiln(["check", path.to_str().unwrap(), "--target", "cpu:aarch64"]).well();
    kiln(["check", path.to_str().unwrap(), "--target", "cpu:z80"]).exits(2);
}

#[test]
fn errors_in_models_name_file_place_expected_and_found() {
    kiln(["compile", "no/such/model", "-o", "x.kiln"]).exits(1).says(&["no/such/model", "explain E01"]);
    kiln(["check", "Cargo.toml"]).exits(1).says(&["E0103", "Cargo.toml", "expected a model"]);
    let folder = folder();
    // A file that is not there is just that, whatever its name says that it would hold.
    for name in ["x.kir", "x.safetensors", "x.psdd", "x.json", "x"] {
        let name = format!("no/{name}");
        let done = kiln(["check", &name, "--json"]).exits(1).says(&["error[E0101]", &name, "No such file"]);
        assert_eq!(done.json()["errors"][0]["code"], "E0101");
    }
    let graph = folder.path().join("weights.kir");
    fs::write(&graph, LINE.replace("  entry", "  weights %%0 = \"gone\"\n  entry")).unwrap();
    kiln(["check", graph.to_str().unwrap()]).exits(1).says(&["E0101", "gone", "No such file"]);
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::copy(Path::new(ROOT).join(VIT).join("config.json"), model.join("config.json")).unwrap();
    kiln(["check", model.to_str().unwrap()]).exits(1).says(&["E0101", "expected model.safetensors"]);
    fs::write(model.join("config.json"), r#"{"model_type": "pointer_nets"}"#).unwrap();
    kiln(["check", model.to_str().unwrap()]).exits(1).says(&["E0104", "BertModel", "\"pointer_network\""]);
    let graph = folder.path().join("bad.kir");
    fs::write(&graph, LINE.replace("mul %x, 2.0", "mul %x")).unwrap();
    kiln(["opt", graph.to_str().unwrap()]).exits(1).says(&["bad.kir", "4", "mul"]);
    fs::write(&graph, LINE.replace("add", "plus")).unwrap();
    kiln(["opt", graph.to_str().unwrap()]).exits(1).says(&["E0107", "bad.kir", "5", "plus"]);
    for broken in [LINE.replace("stage", "age"), LINE.replace("%1 = add %0, 1.0 : f32[N]", "%1 = add %0, 1.0 : f32[7]")]
    {
        fs::write(&graph, broken).unwrap();
        let done = kiln(["opt", graph.to_str().unwrap()]).exits(1).says(&["bad.kir", "expected", "found"]);
        assert_eq!(done.stderr.matches("expected").count(), 1, "{}", done.stderr);
    }
    let model = folder.path();
    fs::copy(Path::new(ROOT).join(VIT).join("config.json"), model.join("config.json")).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(model.join("config.json"), config.replace("ViTForImageClassification", "ViTForFun")).unwrap();
    kiln(["check", model.to_str().unwrap()]).exits(1).says(&["E0104", "config.json", "architectures", "ViTForFun"]);
    fs::write(model.join("config.json"), config).unwrap();
    fs::write(model.join("model.safetensors"), [0xff; 100]).unwrap();
    kiln(["check", model.to_str().unwrap()]).exits(1).says(&["E0106", "model.safetensors", "header"]);
}

#[test]
fn a_failure_leaves_the_output_as_it_was() {
    let folder = folder();
    let out = folder.path().join("out.kiln");
    fs::write(&out, "precious").unwrap();
    kiln(["compile", "Cargo.toml", "-o", out.to_str().unwrap()]).exits(1);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let link = folder.path().join("link.kir");
    std::os::unix::fs::symlink("out.kiln", &link).unwrap();
    let graph = line(folder.path());
    kiln(["opt", graph.to_str().unwrap(), "--passes", "cse", "-o", link.to_str().unwrap()]).well();
    assert!(link.is_symlink() && fs::read(&out).unwrap() == LINE.as_bytes(), "a link is written through");
    let dangling = folder.path().join("dangling.kir");
    std::os::unix::fs::symlink("appears.kir", &dangling).unwrap();
    kiln(["opt", graph.to_str().unwrap(), "--passes", "cse", "-o", dangling.to_str().unwrap()]).well();
    assert!(dangling.is_symlink() && fs::read(folder.path().join("appears.kir")).unwrap() == LINE.as_bytes());
    kiln(["compile", graph.to_str().unwrap(), "-o", "/dev/null", "--json"]).well();
    kiln(["opt", graph.to_str().unwrap(), "-o", "/dev/null"]).well();
    assert!(!fs::symlink_metadata("/dev/null").unwrap().is_file(), "a device stays one");
    let nowhere = folder.path().join("missing/out.kiln");
    kiln(["compile", VIT, "-o", nowhere.to_str().unwrap()]).exits(1).says(&["E0102", "missing/out.kiln"]);
}

/// Each output is one of the files that the verb reads, under one of their names.
#[test]
fn no_output_takes_the_place_of_what_is_read() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, weights) = (path("vit"), path("vit/model.safetensors"));
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(Path::new(ROOT).join(VIT)).unwrap().map(|f| f.unwrap().path()) {
        fs::copy(&file, Path::new(&model).join(file.file_name().unwrap())).unwrap();
    }
    let (code, input, graph) = (path("vit.kiln"), path("in.safetensors"), path("line.kir"));
    fs::copy(artifact(), &code).unwrap();
    line(folder.path());
    tensors(Path::new(&input), "x", &[2], &[1.0, 2.0]);
    fs::hard_link(&input, path("hard.safetensors")).unwrap();
    std::os::unix::fs::symlink("vit.kiln", path("soft.html")).unwrap();
    let circuit = path("a.jpc");
    fs::write(&circuit, "").unwrap();
    fs::write(path("a.vtree"), "").unwrap();
    let before: Vec<Vec<u8>> = [&weights, &code, &input, &graph].iter().map(|p| fs::read(p).unwrap()).collect();
    for args in [
        vec!["compile", &model, "-o", &weights],
        vec!["compile", &model, "-o", &path("vit/config.json")],
        vec!["compile", &graph, "-o", &graph],
        vec!["compile", &graph, "--emit", "kir", "-o", &path("./line.kir")],
        vec!["compile", &circuit, "-o", &path("a.vtree")],
        vec!["opt", &graph, "-o", &graph],
        vec!["eval", &graph, "--inputs", &input, "--outputs", &path("hard.safetensors")],
        vec!["eval", &model, "--inputs", &input, "--outputs", &weights],
        vec!["run", &code, "--inputs", &input, "--outputs", &input],
        vec!["bench", &code, "--inputs", &input, "--outputs", &input],
        vec!["bench", &code, "--inputs", &input, "--profile", &code],
        vec!["bench", &code, "--inputs", &input, "--outputs", &path("new.npz"), "--profile", &path("./new.npz")],
        vec!["inspect", &code, "--html", &path("soft.html")],
        vec!["encode", &code, &input, "-o", &code],
        vec!["encode", &circuit, &input, "-o", &path("a.vtree")],
        vec!["decode", &code, &input, "-o", &input],
    ] {
        let done = kiln(&args).exits(2).says(&["error[E0112]", args[args.len() - 1], "expected an output of its own"]);
        assert_eq!(done.stdout, "", "{args:?}");
    }
    fs::write(path("module.kir"), LINE).unwrap();
    let emitted = ["compile", &path("module.kir"), "--emit", "kir", "-o", &path("")];
    kiln(emitted).exits(2).says(&["E0112", "module.kir"]);
    assert_eq!(fs::read_to_string(path("module.kir")).unwrap(), LINE);
    for (path, bytes) in [&weights, &code, &input, &graph].iter().zip(before) {
        assert!(fs::read(path).unwrap() == bytes, "{path}");
    }
    // What is beside the model's files, and none of them, may be written again.
    for _ in 0..2 {
        kiln(["eval", &graph, "--inputs", &input, "--outputs", &path("out.safetensors")]).well();
        kiln(["opt", &graph, "--passes", "cse", "-o", &path("vit/out.kir")]).well();
    }
}

#[test]
fn an_output_that_outgrows_a_limit_is_an_error_and_leaves_nothing() {
    let folder = folder();
    let mut command = Command::new("sh");
    let script = "ulimit -f 8; exec \"$0\" inspect \"$1\" --html \"$2/out.html\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_kiln"), artifact()]).arg(folder.path()).current_dir(ROOT);
    Done::of(command.output().unwrap()).exits(1).says(&["error[E0102]", "out.html", "too large"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn inputs_that_do_not_fit_are_all_listed() {
    let folder = folder();
    let input = folder.path().join("in.safetensors");
    tensors(&input, "pixels", &[1, 1, 32, 32], &[0.0; 1024]);
    let run = |more: &[&str]| kiln(["run", artifact(), "--inputs", input.to_str().unwrap()].iter().chain(more));
    run(&[]).exits(1).says(&["E0309", "pixels", "pixel_values: f32["]);
    tensors(&input, "pixel_values", &[1, 1, 16, 64], &[0.0; 1024]);
    run(&[]).exits(1).says(&["E0309", "pixel_values", "16"]);
    run(&["--entry", "backward"]).exits(2).says(&["E0308", "backward", "forward"]);
    fs::write(&input, "no tensors").unwrap();
    run(&[]).exits(1).says(&["E0310", "in.safetensors"]);
    kiln(["run", artifact()]).exits(1).says(&["E0309", "pixel_values"]);
}

/// Answers points with their own order, as a tour.
const ORDER: &str = r#"module @order stage=imported {
  meta "pointer.task" = "tsp"
  dim B = 1..8
  dim N = 1..8
  entry @forward(%points: f32[B,N,2]) -> (indices: i64[B,N]) {
    %0 = iota to=[B,N] axis=1 elem=i64 : i64[B,N]
    return %0
  }
}
"#;

#[test]
fn tours_are_checked() {
    let folder = folder();
    let (model, input) = (folder.path().join("order.kir"), folder.path().join("in.safetensors"));
    let compiled = |text: &str| {
        fs::write(&model, text).unwrap();
        let out = folder.path().join("order.kiln");
        kiln([Path::new("compile"), &model, Path::new("-o"), &out]).exits(0);
        out
    };
    let run = |artifact: &Path| {
        let words = ["--inputs", input.to_str().unwrap(), "--check", "--json"];
        kiln(["run", artifact.to_str().unwrap()].into_iter().chain(words))
    };
    let square = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0];
    tensors(&input, "points", &[2, 4, 2], &[square, square.map(|x| 2.0 * x)].concat());
    let artifact = compiled(ORDER);
    let done = run(&artifact).well();
    assert!(done.stdout.contains("check: 2 of 2 tours are valid, mean length 6.000000\n"), "{}", done.stdout);
    let check = &done.json()["check"];
    assert_eq!((&check["valid"], &check["lengths"]), (&2.into(), &serde_json::json!([4.0, 8.0])));
    tensors(&input, "points", &[1, 4, 2], &[0.0, 0.0, 1.0, f32::NAN, 1.0, 1.0, 0.0, 1.0]);
    run(&artifact).exits(1).says(&["in.safetensors: points[0,1] is no point"]);
    // What cannot be judged does not run.
    tensors(&input, "points", &[2, 4, 2], &[square; 2].concat());
    for (text, problem) in [
        (ORDER.replace("pointer.task", "task"), "pointer.task"),
        (ORDER.replace("(indices", "(order"), "--check: the entry gives no indices"),
        (ORDER.replace("N,2]", "N,3]"), "--check: the entry takes no points in the plane"),
    ] {
        let (artifact, out) = (compiled(&text), folder.path().join("out.npz"));
        let words = ["--inputs", input.to_str().unwrap(), "--outputs", out.to_str().unwrap(), "--check"];
        let done = kiln(["run", artifact.to_str().unwrap()].into_iter().chain(words)).exits(2);
        assert_eq!(done.says(&["E0109", problem]).stdout, "");
        assert!(!out.exists(), "{problem}");
    }
}

#[test]
fn damaged_artifacts_are_refused() {
    let whole = fs::read(artifact()).unwrap();
    let folder = folder();
    let path = folder.path().join("bad.kiln");
    let run = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        kiln(["run", path.to_str().unwrap(), "--inputs", "examples/digit.png"])
    };
    run(&[]).exits(1).says(&["error[E03"]);
    run(b"#!/bin/sh\n").exits(1).says(&["E0301", "bad.kiln"]);
    let mut newer = whole.clone();
    newer[8] += 1;
    let versions = [1, 0].map(|n| format!("version {}", kiln_runtime::format::FORMAT_VERSION + n));
    run(&newer).exits(1).says(&["E0302", &versions[0], &versions[1]]);
    // Some twenty places over the whole file, each cut there and changed there.
    for place in (0..20).map(|i| i * (whole.len() - 1) / 19) {
        run(&whole[..place]).exits(1).says(&["error[E03"]);
        let mut flipped = whole.clone();
        flipped[place] ^= 0x40;
        let done = run(&flipped).exits(1).says(&["error[E03", "bad.kiln"]);
        assert!(!done.stdout.contains("class"), "byte {place}: {}", done.stdout);
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for args in [vec!["inspect", artifact(), "--plan"], vec!["targets"], vec!["opt", VIT]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args(&args).current_dir(ROOT).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        Done::of(child.wait_with_output().unwrap()).well();
    }
}

/// With the model file for the artifact: the two code alike, as `coding.rs` shows.
#[test]
fn rows_are_coded_and_come_back() {
    const CIRCUIT: &str = "examples/models/digits-hclt/digits-hclt-16.jpc.gz";
    const ROWS: &str = "examples/models/digits-hclt/test-rows.csv.gz";
    let folder = folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (coded, again, other) = (path("rows.bin"), path("again.csv.gz"), path("other.npz"));
    let facts = kiln(["encode", CIRCUIT, ROWS, "-o", &coded, "--json"]).well().json();
    assert_eq!((&facts["rows"], &facts["variables"], &facts["raw_bytes"]), (&360.into(), &64.into(), &23040.into()));
    let (bytes, ideal) = (facts["bytes"].as_f64().unwrap(), facts["ideal_bits"].as_f64().unwrap());
    assert!((46574.0..46575.0).contains(&ideal) && 8.0 * bytes < ideal + 64.0 + 8.0 * 88.0, "{facts}");
    assert_eq!(fs::metadata(&coded).unwrap().len(), bytes as u64);
    kiln(["decode", CIRCUIT, &coded, "-o", &again]).well();
    kiln(["encode", CIRCUIT, &again, "-o", &path("again.bin")]).well();
    assert_eq!(fs::read(path("again.bin")).unwrap(), fs::read(&coded).unwrap());

    fs::write(path("cut.bin"), &fs::read(&coded).unwrap()[..5000]).unwrap();
    kiln(["decode", CIRCUIT, &path("cut.bin"), "-o", &other])
        .exits(1)
        .says(&["error[E0316]", "cut.bin: the stream is cut"]);
    fs::write(path("bad.csv"), "17".to_owned() + &",0".repeat(63)).unwrap();
    let bad = kiln(["encode", CIRCUIT, &path("bad.csv"), "-o", &other]).exits(1);
    bad.says(&["error[E0310]", "line 1: variable 0: the value 17 is outside of the circuit's 0..17"]);
    kiln(["encode", VIT, ROWS, "-o", &other]).exits(1);
    let model = path("plain.kir");
    fs::write(&model, "module @none stage=imported {\n}\n").unwrap();
    kiln(["encode", &model, ROWS, "-o", &other]).exits(1).says(&["error[E0315]", "the model is no circuit"]);
    assert!(!Path::new(&other).exists());
}
