//! Distributions of one variable, and what queries ask of them.

use super::{BuildError, Domain, MAX_VALUES, logsumexp, normal_quantile};
use libm::{exp, floor, lgamma, log, log1p};

/// The distribution of an input node. Probabilities and densities are natural logarithms.
#[derive(Clone, PartialEq, Debug)]
pub enum Distribution {
    /// Always this value.
    Indicator {
        value: u32,
    },
    /// `log_p[k]` of value `k`; values beyond have probability 0.
    Categorical {
        log_p: Vec<f64>,
    },
    /// The number of successes in `trials`, each with log-probability `log_p`.
    Binomial {
        trials: u32,
        log_p: f64,
    },
    Gaussian {
        mean: f64,
        std: f64,
    },
    /// `log_density[i]` for `breaks[i] <= x < breaks[i + 1]`; outside of the breaks 0. Of a discrete variable it is the
    /// log-probability of each value in the bin.
    Histogram {
        breaks: Vec<f64>,
        log_density: Vec<f64>,
    },
    /// The discretised logistic: `sigmoid((k + 1/2 - mean) / scale) - sigmoid((k - 1/2 - mean) / scale)` for `k` from 0
    /// to `values - 1`; the first and the last value have the tails.
    Logistic {
        mean: f64,
        scale: f64,
        values: u32,
    },
}

/// ln(1 - e^x) for x <= 0, without cancellation.
pub(super) fn log_complement(x: f64) -> f64 {
    match x {
        x if x >= 0.0 => f64::NEG_INFINITY,
        x if x > -core::f64::consts::LN_2 => log(-libm::expm1(x)),
        x => log1p(-exp(x)),
    }
}

impl Distribution {
    /// The word for it in the text form.
    pub const fn name(&self) -> &'static str {
        match self {
            Distribution::Indicator { .. } => "indicator",
            Distribution::Categorical { .. } => "categorical",
            Distribution::Binomial { .. } => "binomial",
            Distribution::Gaussian { .. } => "gaussian",
            Distribution::Histogram { .. } => "histogram",
            Distribution::Logistic { .. } => "logistic",
        }
    }

    /// A distribution over two values by the log-probability of 1.
    pub fn bernoulli(log_p: f64) -> Distribution {
        Distribution::Categorical { log_p: vec![log_complement(log_p), log_p] }
    }

    /// Everything that tells it from others.
    pub(super) fn bits(&self) -> Vec<u64> {
        let floats = |tag: u64, lists: &[&[f64]]| -> Vec<u64> {
            let all = lists.iter().flat_map(|l| l.iter());
            [tag].into_iter().chain(all.map(|x| x.to_bits())).collect()
        };
        match self {
            Distribution::Indicator { value } => vec![0, u64::from(*value)],
            Distribution::Categorical { log_p } => floats(1, &[log_p]),
            Distribution::Binomial { trials, log_p } => vec![2, u64::from(*trials), log_p.to_bits()],
            Distribution::Gaussian { mean, std } => floats(3, &[&[*mean, *std]]),
            // One more break than densities, so that the lists need no mark between them.
            Distribution::Histogram { breaks, log_density } => floats(4, &[breaks, log_density]),
            Distribution::Logistic { mean, scale, values } => {
                vec![5, mean.to_bits(), scale.to_bits(), u64::from(*values)]
            }
        }
    }

    /// Whether the numbers make sense and suit the domain.
    pub(super) fn check(&self, domain: Domain) -> Result<(), BuildError> {
        let wrong = |expected: &str, found: String| Err(BuildError::new(expected, found));
        let is_log = |x: &f64| !x.is_nan() && *x != f64::INFINITY;
        let values = domain.values();
        match self {
            Distribution::Indicator { value } if values.is_some_and(|k| *value >= k) => {
                return wrong(&format!("a value below {domain}"), value.to_string());
            }
            Distribution::Categorical { log_p } => {
                if log_p.is_empty() || log_p.len() > MAX_VALUES as usize {
                    return wrong(&format!("1 to {MAX_VALUES} log-probabilities"), log_p.len().to_string());
                }
                if let Some(x) = log_p.iter().find(|x| !is_log(x)) {
                    return wrong("a log-probability", x.to_string());
                }
                if values.is_some_and(|k| log_p.len() > k as usize) {
                    return wrong(&format!("at most {domain} log-probabilities"), log_p.len().to_string());
                }
            }
            Distribution::Binomial { trials, log_p } => {
                if values.is_some_and(|k| *trials >= k) {
                    return wrong(&format!("fewer than {domain} trials"), trials.to_string());
                }
                if !is_log(log_p) || *log_p > 0.0 {
                    return wrong("a log-probability", log_p.to_string());
                }
            }
            Distribution::Gaussian { mean, std } => {
                // The inverse of a smaller one is infinite.
                if !mean.is_finite() || !std.is_finite() || *std < f64::MIN_POSITIVE {
                    return wrong("a mean and a positive deviation", format!("{mean} and {std}"));
                }
                if values.is_some() {
                    return wrong("a distribution of a discrete variable", "a Gaussian".into());
                }
                return Ok(());
            }
            Distribution::Histogram { breaks, log_density } => {
                if log_density.is_empty() || breaks.len() != log_density.len() + 1 {
                    let found = format!("{} breaks for {} densities", breaks.len(), log_density.len());
                    return wrong("one break more than densities", found);
                }
                let rises = breaks.windows(2).all(|w| w[0] < w[1]) && breaks.iter().all(|b| b.is_finite());
                if !rises {
                    return wrong("rising breaks", "others".into());
                }
                if let Some(x) = log_density.iter().find(|x| !is_log(x)) {
                    return wrong("the logarithm of a density", x.to_string());
                }
                let Some(k) = values else { return Ok(()) };
                let inside = breaks[0] >= 0.0 && breaks[breaks.len() - 1] <= f64::from(k);
                if !inside || breaks.iter().any(|b| floor(*b) != *b) {
                    return wrong(&format!("breaks at integers from 0 to {k}"), "others".into());
                }
            }
            Distribution::Logistic { mean, scale, values: n } => {
                if !mean.is_finite() || !scale.is_finite() || *scale <= 0.0 {
                    return wrong("a mean and a positive scale", format!("{mean} and {scale}"));
                }
                if *n == 0 || values.is_some_and(|k| *n > k) {
                    return wrong(&format!("1 to {domain} values"), n.to_string());
                }
            }
            Distribution::Indicator { .. } => {}
        }
        match values {
            Some(_) => Ok(()),
            None => wrong("a distribution of a real variable", format!("{} {}", article(self.name()), self.name())),
        }
    }

    /// The log-probability or log-density at `x`, which is a number; of discrete ones that of `floor(x)`.
    pub fn log_prob(&self, x: f64) -> f64 {
        let k = floor(x);
        let out = f64::NEG_INFINITY;
        match self {
            Distribution::Indicator { value } if k == f64::from(*value) => 0.0,
            Distribution::Indicator { .. } => out,
            Distribution::Categorical { log_p } if k >= 0.0 && k < log_p.len() as f64 => log_p[k as usize],
            Distribution::Categorical { .. } => out,
            Distribution::Binomial { trials, log_p } => {
                let n = f64::from(*trials);
                if !(0.0..=n).contains(&k) {
                    return out;
                }
                let times = |count: f64, each: f64| if count == 0.0 { 0.0 } else { count * each };
                let choices = lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0);
                choices + times(k, *log_p) + times(n - k, log_complement(*log_p))
            }
            Distribution::Gaussian { mean, std } => {
                let z = (x - mean) / std;
                -0.5 * z * z + peak(*std)
            }
            Distribution::Histogram { breaks, log_density } => {
                let bin = breaks.partition_point(|b| *b <= x);
                if bin == 0 || bin > log_density.len() { out } else { log_density[bin - 1] }
            }
            Distribution::Logistic { mean, scale, values } => {
                let last = f64::from(*values - 1);
                if !(0.0..=last).contains(&k) {
                    return out;
                }
                let below = if k == 0.0 { f64::NEG_INFINITY } else { (k - 0.5 - mean) / scale };
                let above = if k == last { f64::INFINITY } else { (k + 0.5 - mean) / scale };
                log_sigmoid_difference(below, above)
            }
        }
    }

    /// The log-probabilities of the values from 0 to `k - 1`; none for what only real variables have.
    pub fn table(&self, k: u32) -> Option<Vec<f64>> {
        let is_discrete = match self {
            Distribution::Gaussian { .. } => false,
            Distribution::Histogram { breaks, .. } => breaks.iter().all(|b| floor(*b) == *b && *b >= 0.0),
            Distribution::Indicator { .. }
            | Distribution::Categorical { .. }
            | Distribution::Binomial { .. }
            | Distribution::Logistic { .. } => true,
        };
        is_discrete.then(|| (0..k).map(|v| self.log_prob(f64::from(v))).collect())
    }

    /// The most probable value, the first of equals, with its log-probability or log-density. Of a histogram over the
    /// reals it is the middle of the densest bin.
    pub fn mode(&self, domain: Domain) -> (f64, f64) {
        match (self, domain) {
            (Distribution::Gaussian { mean, std }, _) => (*mean, peak(*std)),
            (Distribution::Histogram { breaks, log_density }, _) => {
                let bin = first_max(log_density);
                let middle = (breaks[bin] + breaks[bin + 1]) / 2.0;
                (if domain == Domain::Real { middle } else { breaks[bin] }, log_density[bin])
            }
            (Distribution::Indicator { value }, _) => (f64::from(*value), 0.0),
            (Distribution::Categorical { log_p }, _) => {
                let k = first_max(log_p);
                (k as f64, log_p[k])
            }
            (Distribution::Binomial { trials: n, .. }, _) => self.table_mode(*n + 1),
            (Distribution::Logistic { values, .. }, _) => self.table_mode(*values),
        }
    }

    fn table_mode(&self, k: u32) -> (f64, f64) {
        let table: Vec<f64> = (0..k).map(|v| self.log_prob(f64::from(v))).collect();
        let best = first_max(&table);
        (best as f64, table[best])
    }

    /// The expected value; NaN where nothing has a positive probability.
    pub fn mean(&self, domain: Domain) -> f64 {
        match self {
            Distribution::Indicator { value } => f64::from(*value),
            Distribution::Gaussian { mean, .. } => *mean,
            Distribution::Binomial { trials, log_p } => f64::from(*trials) * exp(*log_p),
            Distribution::Histogram { breaks, log_density } => {
                // A bin over integers ends one before the next break.
                let end = if domain == Domain::Real { 0.0 } else { 1.0 };
                let bins = log_density.iter().zip(breaks.windows(2));
                let (mass, sum) = bins.fold((0.0, 0.0), |(mass, sum), (d, b)| {
                    let p = exp(*d) * (b[1] - b[0]);
                    (mass + p, sum + p * (b[0] + b[1] - end) / 2.0)
                });
                sum / mass
            }
            Distribution::Categorical { log_p } => mean_of(log_p.iter().copied()),
            Distribution::Logistic { values, .. } => mean_of((0..*values).map(|k| self.log_prob(f64::from(k)))),
        }
    }

    /// The value at which the cumulative distribution passes `u`, from 0 to 1: discrete ones give the first value whose
    /// running sum of probabilities exceeds `u` of the total, or else the last one with a positive probability.
    pub fn quantile(&self, u: f64, domain: Domain) -> f64 {
        match self {
            Distribution::Indicator { value } => f64::from(*value),
            Distribution::Gaussian { mean, std } => mean + std * normal_quantile(u),
            Distribution::Categorical { log_p } => choose(log_p, u).0 as f64,
            Distribution::Binomial { trials, .. } => choose(&self.table(*trials + 1).unwrap_or_default(), u).0 as f64,
            Distribution::Logistic { values, .. } => choose(&self.table(*values).unwrap_or_default(), u).0 as f64,
            Distribution::Histogram { breaks, log_density } => {
                let masses: Vec<f64> =
                    log_density.iter().zip(breaks.windows(2)).map(|(d, b)| d + log(b[1] - b[0])).collect();
                let (bin, inside) = choose(&masses, u);
                let (low, high) = (breaks[bin], breaks[bin + 1]);
                let x = low + inside * (high - low);
                match domain {
                    Domain::Real => x,
                    Domain::Discrete(_) => floor(x).min(high - 1.0),
                }
            }
        }
    }

    /// How far the logarithm of the total mass is from 0.
    pub fn log_mass_error(&self, domain: Domain) -> f64 {
        let total = match self {
            Distribution::Categorical { log_p } => logsumexp(log_p.iter().copied()),
            Distribution::Histogram { breaks, log_density } if domain == Domain::Real || breaks.len() > 1 => {
                logsumexp(log_density.iter().zip(breaks.windows(2)).map(|(d, b)| d + log(b[1] - b[0])))
            }
            _ => 0.0,
        };
        total.abs()
    }
}

fn article(name: &str) -> &'static str {
    if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The log-density of a Gaussian at its mean.
fn peak(std: f64) -> f64 {
    -log(std) - 0.5 * log(2.0 * core::f64::consts::PI)
}

/// `ln(sigmoid(b) - sigmoid(a))` for a < b, of which the nearer one to zero decides the accuracy.
fn log_sigmoid_difference(a: f64, b: f64) -> f64 {
    // sigmoid(b) - sigmoid(a) = sigmoid(b) * sigmoid(-a) * (1 - e^(a - b))
    let log_sigmoid = |x: f64| if x >= 0.0 { -log1p(exp(-x)) } else { x - log1p(exp(x)) };
    let tail = if a == f64::NEG_INFINITY || b == f64::INFINITY { 0.0 } else { log_complement(a - b) };
    let left = if b == f64::INFINITY { 0.0 } else { log_sigmoid(b) };
    let right = if a == f64::NEG_INFINITY { 0.0 } else { log_sigmoid(-a) };
    left + right + tail
}

pub(super) fn first_max(x: &[f64]) -> usize {
    x.iter().enumerate().fold(0, |best, (n, v)| if *v > x[best] { n } else { best })
}

fn mean_of(log_p: impl Iterator<Item = f64>) -> f64 {
    let (mass, sum) = log_p.enumerate().fold((0.0, 0.0), |(mass, sum), (k, l)| {
        let p = exp(l);
        (mass + p, sum + p * k as f64)
    });
    sum / mass
}

/// The first item whose running sum of `exp(log_w)` exceeds `u` of the total, or else the last positive one (the first
/// if none is), and how far into the item that is, from 0 to 1.
pub(super) fn choose(log_w: &[f64], u: f64) -> (usize, f64) {
    let top = log_w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return (0, u);
    }
    let weight = |l: &f64| exp(l - top);
    let target = u * log_w.iter().map(weight).fold(0.0, |a, b| a + b);
    let mut sum = 0.0;
    let mut last = 0;
    for (n, w) in log_w.iter().map(weight).enumerate() {
        if w > 0.0 {
            if sum + w > target {
                return (n, ((target - sum) / w).clamp(0.0, 1.0));
            }
            last = n;
        }
        sum += w;
    }
    (last, 1.0)
}
