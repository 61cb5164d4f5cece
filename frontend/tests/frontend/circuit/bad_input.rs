//! Circuit files with something wrong: each message names the file, the line or byte, what was expected and found.

use super::{errors, file, formats, shared};
use std::io::Write;

fn only(name: &str, content: impl AsRef<[u8]>) -> String {
    let (_dir, path) = file(name, content);
    let errors = errors(&path);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

fn says(name: &str, content: impl AsRef<[u8]>, message: &str) {
    assert_eq!(only(name, content), format!("{name}: {message}"));
}

#[test]
fn psdd() {
    let p = |body: &str| format!("psdd 3\nL 0 0 1\nL 1 0 -1\nL 2 1 2\n{body}\n");
    says("x.psdd", p("D 3 2 1 0 9 0.0"), "line 5: expected the number of a node on a line above, found 9");
    says("x.psdd", p("L 1 0 1"), "line 5: expected a number that no other node has, found 1");
    says("x.psdd", p("D 3 2 2 0 2 0.0"), "line 5: expected 2 children of 3 words each, found 3 words");
    says(
        "x.psdd",
        p("D 3 2 1 0 1 0.0"),
        "node 3, line 5: expected a decomposable circuit, in which children of a product share no variable, found \
         children of a product share column 0",
    );
    says(
        "x.psdd",
        p("D 3 2 2 0 2 -0.7 1 2 -0.1"),
        "node 3, line 5: expected weights that are normalised, found the weights of a sum add up to \
         1.4014227218273692, not 1",
    );
    says("x.psdd", p("D 3 2 1 0 2 0.5"), "line 5: expected a log-weight, at most 0, found `0.5`");
    says("x.psdd", p("X 3 2"), "line 5: expected a node, which begins with L, T or D, found `X`");
    says(
        "x.psdd",
        p("T 3 1 2 -0.1 -0.1"),
        "line 5: expected log-probabilities of false and true that add up to 1, found a sum of 1.809674836071919",
    );
    says("x.psdd", p("T 3 1 0 -0.1"), "line 5: expected a variable, counted from 1, found `0`");
    says("x.psdd", p("T 3 1 2 nan"), "line 5: expected a log-probability, found `nan`");
    says(
        "x.psdd",
        p("L 3 1"),
        "line 5: expected a literal, which is a variable or its negative, found the end of the line",
    );
    says("x.psdd", p("L 3 1 2 2"), "line 5: expected the end of the line, found `2`");
    says("x.psdd", p("D 3 2 0"), "line 5: expected a sum with children, found none");
    says("x.psdd", p("L 3 1 9999999"), "line 5: expected at most 1048576 variables, found variable 9999998");
    says("x.psdd", "psdd 1\n", "line 2: expected a node, found the end of the file");
}

#[test]
fn sums_that_are_not_smooth() {
    says(
        "x.jpc",
        "jpc 4\nL 0 0 1\nL 1 1 2\nP 2 2 2 0 1\nS 3 2 2 2 -0.6931471805599453 0 -0.6931471805599453\n",
        "node 3, line 5: expected a smooth circuit, in which children of a sum have the same variables, found children of \
         a sum have different variables, (node 0, line 2) lacks column 1",
    );
}

#[test]
fn jpc() {
    says("x.jpc", "jpc 2\nL 0 0 1\n", "line 3: expected 2 nodes, as the header says, found 1");
    says("x.jpc", "jpc 1\nL 1 0 1\n", "line 2: expected node 0, as nodes are numbered in order, found node 1");
    says("x.jpc", "jpc 2\nL 0 0 1\nP 1 0 1 1\n", "line 3: expected the number of a node on a line above, found 1");
    says("x.jpc", "jpc 2\nL 0 0 1\nP 1 0 2 0\n", "line 3: expected 2 children of 1 words each, found 1 words");
    says("x.jpc", "jpc 1\nC 0 0 1\n", "line 2: expected a variable of 1 to 65536 values, found 0 values");
    says("x.jpc", "jpc 1\nI 0 0 1 65536\n", "line 2: expected a variable of 1 to 65536 values, found 65537 values");
    says(
        "x.jpc",
        "jpc 1\nC 0 0 1 -1.0 -1.0\n",
        "node 0, line 2: expected weights that are normalised, found the probabilities of a categorical do not add up to 1",
    );
    says("x.jpc", "jpc 1\nZ 0 0 1\n", "line 2: expected a node, which begins with L, I, C, B, P or S, found `Z`");
}

#[test]
fn few_lines_for_long_tables() {
    let literals: String = (1..20_000).map(|n| format!("L {n} 0 1\n")).collect();
    let weight = (1.0f64 / 20_000.0).ln();
    let children: String = (0..20_000).map(|n| format!(" {n} {weight}")).collect();
    says(
        "x.jpc",
        format!("jpc 20001\nI 0 0 1 65535\n{literals}S 20000 0 20000{children}\n"),
        "expected at most 1073741824 values of all inputs together, found 1310720000",
    );
}

#[test]
fn pickles_and_other_things_are_refused_with_advice() {
    // Protocols 4, 0 and 1.
    let pickles: [&[u8]; 5] = [
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00]\x94.",
        b"(lp0\nI1\na.",
        b"(dp1\nS'a'\np2\nI1\ns.",
        b"ccopy_reg\n_reconstructor\np0\n(c__main__\nNode\np1\n",
        b"]q\x00K\x01a.",
    ];
    for bytes in pickles {
        let pickle = only("x.jpc", bytes);
        let advice = "a Python pickle, which is never read, as that runs code in it; write a PyJuice";
        assert!(pickle.contains(advice), "{pickle}");
    }
    let zip = only("x.jpc", b"PK\x03\x04data.pkl");
    assert!(zip.contains("a zip file, as PyTorch writes; write the circuit as Juice text (.jpc)"), "{zip}");
    let vtree = only("x.vtree", "vtree 1\nL 0 1\n");
    assert!(vtree.ends_with("found a vtree alone; give the circuit, beside which it is found"), "{vtree}");
    let classifier = only("x.circuit", "Logisitic Circuit\n");
    assert!(classifier.contains("a logistic circuit, which is a classifier and no distribution"), "{classifier}");
    let packed = only("x.jpc.gz", [0x1f, 0x8b, 8, 0, 1, 2, 3]);
    assert!(packed.ends_with("found a gzip file of another kind; unpack it"), "{packed}");
}

#[test]
fn packed_texts_are_read_to_their_end() {
    let pack = |text: &str| {
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let whole = [pack("jpc 2\nL 0 0 1\n"), pack("P 1 0 1 0\n")].concat();
    assert_eq!(errors(&file("x.jpc.gz", &whole).1), [] as [String; 0]);
    let more = [whole.clone(), pack("L 2 0 1\n")].concat();
    says("x.jpc.gz", more, "line 5: expected 2 nodes, as the header says, found 3");
    let behind = only("x.jpc.gz", [&whole[..], b"trailing garbage"].concat());
    assert_eq!(behind, "x.jpc.gz: line 4: expected a text, packed with gzip or not, found invalid gzip header");
    let cut = only("x.jpc.gz", &whole[..whole.len() - 1]);
    assert!(cut.contains("expected a text, packed with gzip or not, found"), "{cut}");
}

#[test]
fn sentences_are_no_circuits() {
    for text in ["a word\n", "(see below)\n", "(lp)\n", "cat\ndog\npig\n", "t 1\n", "o x 0\n"] {
        let e = only("notes.txt", text);
        assert!(e.ends_with("found a file of another kind"), "{e}");
    }
}

#[test]
fn vtrees() {
    for (text, message) in [
        ("vtree 2\nL 0 1\n", "line 3: expected 2 nodes, as the header says, found 1"),
        ("vtree 2\nL 0 1\nL 1 2\n", "line 4: expected one node without a parent, the root, found 2"),
        ("vtree 2\nI 0 0 1\n", "line 2: expected the number of a node on a line above, found 0"),
        ("vtree 2\nL 0 1\nI 1 0 0\n", "line 3: expected nodes with one parent each, found node 0 below two"),
        ("vtree 3\nL 0 1\nL 1 1\nI 2 0 1\n", "line 5: expected a vtree, found variable 0 has two leaves"),
        ("vtree 2\nL 0 1\nL 0 2\n", "line 3: expected a number that no other node has, found 0"),
    ] {
        let (dir, path) = file("x.psdd", "psdd 1\nL 0 0 1\n");
        std::fs::write(dir.path().join("x.vtree"), text).unwrap();
        assert_eq!(errors(&path), [format!("x.vtree: {message}")]);
    }
}

#[test]
fn spn() {
    says("x.spn", "(2)\nv 0 1\n", "line 3: expected EOF behind the last node, found the end of the file");
    says("x.spn", "(2 x)\nv 0 1\nEOF\n", "line 1: expected the size of a domain, found `x`");
    says("x.spn", "(2)\nv 0 2\nEOF\n", "line 2: expected a value below 2, found 2");
    says("x.spn", "(2)\nv 1 0\nEOF\n", "line 2: expected one of 1 variables, found variable 1");
    says("x.spn", "(2)\nv 0 1\n+ 0\nEOF\n", "line 3: expected a log-weight, found the end of the line");
    says("x.spn", "(2)\nv 0 1\n* 1\nEOF\n", "line 3: expected the number of a node on a line above, found 1");
    says("x.spn", "(2)\nEOF\n", "line 3: expected a node, found none");
    says(
        "x.spn",
        "(2)\nn 0.5\nEOF\n",
        "line 2: expected a node, which begins with v, * or +, found `n`, a constant of Libra's .ac\n  help: write the \
         weights beside the children of sums, as Juice does",
    );
}

#[test]
fn formulas() {
    says("x.nnf", "nnf 2 0 1\nL 1\n", "line 3: expected 2 nodes and 0 edges, as the header says, found 1 and 0");
    says("x.nnf", "nnf 1 0 1\nL 2\n", "line 2: expected one of 1 variables, found 2");
    says("x.nnf", "nnf 1 1 1\nA 1 0\n", "line 2: expected the number of a node on a line above, found 0");
    says(
        "x.nnf",
        "o 1 0\na 2 0\n1 2 0\n2 1 0\n",
        "line 5: expected nodes that are not below themselves, found the node of line 1",
    );
    says("x.nnf", "c p weight 1 -2 0\nnnf 1 0 1\nL 1\n", "line 1: expected a weight of at least 0, found -2");
    says("x.nnf", "c p weight 5 0.3 0\nnnf 1 0 1\nL 1\n", "line 1: expected one of 1 variables, found 5");
    says(
        "x.nnf",
        "nnf 1 0 2\nc p weight -2 0.3 0\nc p weight -4 0.3 0\nc p weight 3 0.3 0\nL 1\n",
        "line 3: expected one of 2 variables, found 4",
    );
    let (dir, path) = file("x.nnf", "nnf 1 0 1\nL 1\n");
    std::fs::write(dir.path().join("x.weights"), "1 0.5\n2 0.5\n").unwrap();
    assert_eq!(errors(&path), ["x.weights: line 2: expected one of 1 variables, found 2"]);
    says("x.sdd", "sdd 1\nD 0 1 1 0 0\n", "line 2: expected the number of a node on a line above, found 0");
    says(
        "x.nnf",
        "nnf 3 2 1\nL 1\nL 1\nA 2 0 1\n",
        "node 2, line 4: expected a decomposable circuit, in which children of a product share no variable, found \
         children of a product share column 0",
    );
}

#[test]
fn networks() {
    says("x.uai", "BAYES\n1\n2\n1\n1 1\n2 0.5 0.5\n", "line 5: expected different variables below 1, found 1");
    says(
        "x.uai",
        "BAYES\n1\n2\n1\n1 0\n3 0.5 0.5\n",
        "line 6: expected 2 entries, one for each row of the factor, found 3",
    );
    says("x.uai", "BAYES\n1\n2\n1\n1 0\n2 0.5 -1\n", "line 6: expected a value of at least 0, found -1");
    says("x.uai", "BAYES\n1\n2\n1\n1 0\n2 0.5\n", "line 7: expected more numbers, found the end of the file");
    says("x.uai", "BAYES\n1\n2\n1\n1 0\n2 0.5 0.5\n7\n", "line 7: expected the end of the file, found more");
    says("x.uai", "MARKOV\n1\n2\n1\n1 0\n2 0 0\n", "expected a network in which some row is possible, found none");
    // Thirty variables that all depend on each other.
    let pairs: Vec<(usize, usize)> = (0..30).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
    let mut text = format!("MARKOV 30 {} {}", "2 ".repeat(30), pairs.len());
    pairs.iter().for_each(|(i, j)| text += &format!(" 2 {i} {j}"));
    pairs.iter().for_each(|_| text += " 4 1 2 3 4");
    says(
        "x.uai",
        text,
        "expected a network small enough to be compiled, found one that needs a table over 30 variables",
    );
}

#[test]
fn messages() {
    let whole = formats::message(&[0, 1]);
    let at = |e: &str| e.split(": ").nth(1).unwrap().to_string();
    let cut = only("x.bin", &whole[..whole.len() - 8]);
    assert!(cut.contains("expected all bytes of the segments that the table lists, found"), "{cut}");
    assert_eq!(at(&cut), format!("byte {}", whole.len() - 8));
    let long = only("x.bin", [&whole[..], &[0; 8]].concat());
    assert!(long.contains("expected the end of the file, found 8 bytes more"), "{long}");
    let cycle = only("x.bin", formats::message(&[0, 5]));
    assert!(cycle.contains("expected nodes that are not below themselves, found node 5"), "{cycle}");
    let unknown = only("x.bin", formats::message(&[0, 9]));
    assert!(unknown.contains("expected the numbers of nodes as children, found 9"), "{unknown}");
    let (_dir, path) = file("x.bin", formats::message(&[0, 0]));
    assert_eq!(
        errors(&path),
        [
            "x.bin: node 3, byte 96: expected a decomposable circuit, in which children of a product share no variable, \
             found children of a product share column 0",
            "x.bin: node 5, byte 80: expected a smooth circuit, in which children of a sum have the same variables, found \
             children of a sum have different variables, (node 3, byte 96) lacks column 1",
        ]
    );
    // The weights 0.25 and 0.75 follow each other.
    let place = whole.windows(8).position(|w| w == 0.25f64.to_le_bytes()).unwrap();
    let with = |x: f64| [&whole[..place], &x.to_le_bytes(), &whole[place + 8..]].concat();
    let negative = only("x.bin", with(-0.25));
    assert!(negative.contains("expected weights of at least 0, found -0.25"), "{negative}");
    let heavy = only("x.bin", with(0.5));
    assert!(
        heavy.contains("expected weights that are normalised, found the weights of a sum add up to 1.25"),
        "{heavy}"
    );
}

#[test]
fn a_vtree_of_another_model_is_refused() {
    let Some(folder) = shared("data/circuits/psdd") else { return };
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::copy(folder.join("msnbc-yitao-a.psdd"), dir.path().join("m.psdd")).unwrap();
    std::fs::copy(folder.join("msnbc.vtree"), dir.path().join("m.vtree")).unwrap();
    let found = errors(&dir.path().join("m.psdd"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("expected products that split their variables as the vtree does"), "{found:?}");
}
