//! Layers that models share, each in the nodes that an exporter gives for it.

use crate::graph::{Built, Graph};
use kiln_ir::{Dim, ElemType, Op, Value};

/// The activation functions of transformers' `ACT2FN` that are read, by their names there.
pub(super) const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::GeluQuick),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
    ("relu6", Activation::Relu6),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("linear", Activation::Identity),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Activation {
    Gelu,
    GeluTanh,
    GeluQuick,
    Relu,
    ReluSquared,
    Relu6,
    Silu,
    Sigmoid,
    Tanh,
    Identity,
}

/// How scores are scaled: in real arithmetic the same, but models differ in how they write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// Divided by the root of the head's width.
    Divide,
    /// Multiplied by its reciprocal.
    Multiply,
}

/// The weights' names and the sizes of one attention.
pub(super) struct Attention<'a> {
    /// Where the scores are computed.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) width: i64,
    pub(super) heads: i64,
    pub(super) bias: bool,
    pub(super) scale: Scale,
}

impl Graph<'_> {
    /// `torch.nn.LayerNorm` over the last axis, as exported before ONNX had an op for it.
    pub(super) fn layer_norm(&mut self, x: Value, path: &str, width: i64, eps: f64) -> Built {
        self.at(path);
        let mean = || [("kind", "mean".into()), ("axes", vec![-1].into()), ("keep", true.into())];
        let (two, eps) = (self.number(2.0), self.number(eps));
        let centre = self.op(Op::Reduce, [x], mean())?;
        let centred = self.op(Op::Sub, [x, centre], [])?;
        let squared = self.op(Op::Pow, [centred, two], [])?;
        let variance = self.op(Op::Reduce, [squared], mean())?;
        let shifted = self.op(Op::Add, [variance, eps], [])?;
        let deviation = self.op(Op::Sqrt, [shifted], [])?;
        let normal = self.op(Op::Div, [centred, deviation], [])?;
        let weight = self.weight(&format!("{path}.weight"), &[width])?;
        let scaled = self.op(Op::Mul, [normal, weight], [])?;
        let bias = self.weight(&format!("{path}.bias"), &[width])?;
        self.op(Op::Add, [scaled, bias], [])
    }

    pub(super) fn activation(&mut self, x: Value, f: Activation, path: &str) -> Built {
        self.at(path);
        match f {
            Activation::Identity => Ok(x),
            Activation::Tanh => self.op(Op::Tanh, [x], []),
            Activation::Sigmoid => self.op(Op::Sigmoid, [x], []),
            Activation::Relu => self.op(Op::Relu, [x], []),
            Activation::ReluSquared => {
                let positive = self.op(Op::Relu, [x], [])?;
                self.op(Op::Mul, [positive, positive], [])
            }
            Activation::Relu6 => {
                let (zero, six) = (self.number(0.0), self.number(6.0));
                let positive = self.op(Op::Max, [x, zero], [])?;
                self.op(Op::Min, [positive, six], [])
            }
            Activation::Silu => {
                let gate = self.op(Op::Sigmoid, [x], [])?;
                self.op(Op::Mul, [x, gate], [])
            }
            Activation::GeluQuick => {
                let slope = self.number(1.702);
                let scaled = self.op(Op::Mul, [x, slope], [])?;
                let gate = self.op(Op::Sigmoid, [scaled], [])?;
                self.op(Op::Mul, [x, gate], [])
            }
            Activation::Gelu => {
                let (root, one, half) = (self.number(std::f64::consts::SQRT_2), self.number(1.0), self.number(0.5));
                let scaled = self.op(Op::Div, [x, root], [])?;
                let erf = self.op(Op::Erf, [scaled], [])?;
                let sum = self.op(Op::Add, [erf, one], [])?;
                let product = self.op(Op::Mul, [x, sum], [])?;
                self.op(Op::Mul, [product, half], [])
            }
            Activation::GeluTanh => {
                let (half, three, cubic) = (self.number(0.5), self.number(3.0), self.number(0.044715));
                let (one, root) = (self.number(1.0), self.number((2.0 / std::f64::consts::PI).sqrt()));
                let halved = self.op(Op::Mul, [x, half], [])?;
                let cube = self.op(Op::Pow, [x, three], [])?;
                let term = self.op(Op::Mul, [cube, cubic], [])?;
                let inner = self.op(Op::Add, [x, term], [])?;
                let scaled = self.op(Op::Mul, [inner, root], [])?;
                let tanh = self.op(Op::Tanh, [scaled], [])?;
                let sum = self.op(Op::Add, [tanh, one], [])?;
                self.op(Op::Mul, [halved, sum], [])
            }
        }
    }

    /// Self-attention over `x` `[B,S,width]`, before its output projection; `mask` is added to the scores.
    pub(super) fn attention(&mut self, x: Value, a: &Attention<'_>, mask: Option<Value>) -> Built {
        let (outer, depth) = (self.dims(x), a.width / a.heads);
        let split: Vec<Dim> = vec![outer[0].clone(), outer[1].clone(), a.heads.into(), depth.into()];
        let mut heads = |path: &str| {
            let y = self.linear(x, path, a.width, a.width, a.bias)?;
            let y = self.op(Op::Reshape, [y], [("to", split.clone().into())])?;
            self.op(Op::Transpose, [y], [("perm", vec![0, 2, 1, 3].into())])
        };
        let (query, key, value) = (heads(a.query)?, heads(a.key)?, heads(a.value)?);
        self.at(a.path);
        let key = self.op(Op::Transpose, [key], [("perm", vec![0, 1, 3, 2].into())])?;
        let scores = self.op(Op::Matmul, [query, key], [])?;
        let root = (depth as f64).sqrt();
        let mut scores = match a.scale {
            Scale::Divide => {
                let root = self.number(root);
                self.op(Op::Div, [scores, root], [])?
            }
            Scale::Multiply => {
                let factor = self.number(1.0 / root);
                self.op(Op::Mul, [scores, factor], [])?
            }
        };
        if let Some(mask) = mask {
            scores = self.op(Op::Add, [scores, mask], [])?;
        }
        let weights = self.op(Op::Softmax, [scores], [("axis", (-1).into())])?;
        let context = self.op(Op::Matmul, [weights, value], [])?;
        let context = self.op(Op::Transpose, [context], [("perm", vec![0, 2, 1, 3].into())])?;
        self.op(Op::Reshape, [context], [("to", outer.into())])
    }

    /// What transformers adds to the scores for `attention_mask` `[B,S]`: 0 where it is 1, the lowest float where it
    /// is 0; `[B,1,1,S]`.
    pub(super) fn extended_mask(&mut self, mask: Value) -> Built {
        self.at("attention_mask");
        let dims = self.dims(mask);
        let to: Vec<Dim> = vec![dims[0].clone(), 1.into(), 1.into(), dims[1].clone()];
        let (one, lowest) = (self.number(1.0), self.number(-ElemType::F32.max_value()));
        let mask = self.op(Op::Reshape, [mask], [("to", to.into())])?;
        let mask = self.op(Op::Convert, [mask], [("to", ElemType::F32.into())])?;
        let inverted = self.op(Op::Sub, [one, mask], [])?;
        self.op(Op::Mul, [inverted, lowest], [])
    }

    /// The first token of `x` `[B,S,H]`, as `[B,H]`.
    pub(super) fn first_token(&mut self, x: Value) -> Built {
        let dims = self.dims(x);
        let first = self.op(
            Op::Slice,
            [x],
            [("axis", 1.into()), ("start", Dim::from(0).into()), ("end", Dim::from(1).into())],
        )?;
        self.op(Op::Reshape, [first], [("to", vec![dims[0].clone(), dims[2].clone()].into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Weights, error::Errors};
    use kiln_ir::{
        Type,
        eval::{Tensor, no_weights, run},
    };

    /// `transformers.activations.ACT2FN` of transformers 5.23 in float64 at -1.5, 0.7 and 7.5.
    const EXPECTED: &[(&str, [f64; 3])] = &[
        ("gelu", [-0.10021080190328704, 0.5306254434438489, 7.49999999999976]),
        ("gelu_python", [-0.10021080190328704, 0.5306254434438489, 7.49999999999976]),
        ("gelu_new", [-0.10042842301976707, 0.5305701347051167, 7.5]),
        ("gelu_fast", [-0.1004284230206536, 0.5305701347045902, 7.5]),
        ("gelu_accurate", [-0.10042842301976707, 0.5305701347051167, 7.5]),
        ("gelu_pytorch_tanh", [-0.10042842301976707, 0.5305701347051167, 7.5]),
        ("quick_gelu", [-0.10833780155292341, 0.5368939517231501, 7.499978556732656]),
        ("relu", [0.0, 0.7, 7.5]),
        ("relu2", [0.0, 0.49, 56.25]),
        ("relu6", [0.0, 0.7, 6.0]),
        ("silu", [-0.2736382857095345, 0.46773144051771626, 7.4958541602230735]),
        ("swish", [-0.2736382857095345, 0.46773144051771626, 7.4958541602230735]),
        ("sigmoid", [0.18242552380635635, 0.6681877721681662, 0.9994472213630764]),
        ("tanh", [-0.9051482536448664, 0.6043677771171635, 0.9999993881955461]),
        ("linear", [-1.5, 0.7, 7.5]),
    ];

    #[test]
    fn activations_are_those_of_transformers() {
        assert_eq!(EXPECTED.len(), ACTIVATIONS.len());
        for (name, expected) in EXPECTED {
            let (_, activation) = ACTIVATIONS.iter().find(|(n, _)| n == name).unwrap();
            let (weights, mut errors) = (Weights::default(), Errors::default());
            let mut g = Graph::new("test", Default::default(), &weights, "", &mut errors);
            let x = g.begin("f", &[("x", Type::new(ElemType::F32, [3]))])[0];
            let y = g.activation(x, *activation, "act").unwrap();
            g.end(&[("y", y)]);
            let module = g.finish(&[], &mut vec![]);
            let inputs = [("x".to_string(), Tensor::floats(ElemType::F32, [3], vec![-1.5, 0.7, 7.5]))];
            let found = run(&module, "f", &inputs.into(), &no_weights).unwrap();
            let error = found[0].1.relative_error(&Tensor::floats(ElemType::F32, [3], expected.to_vec()));
            // Constants of the graph are f32.
            assert!(error < 1e-7, "{name}: {error:e}");
        }
    }
}
