//! A short tour through the points of a CSV file, printed and drawn:
//!
//!     kiln compile examples/models/ptrnet-tsp -o tsp.kiln
//!     cargo run --release -p kiln-runtime --example tsp -- tsp.kiln examples/tsp/cities.csv tour.svg
//!
//! A line is `x,y` or `name,x,y`; a first line that holds no numbers is a heading.

use kiln_runtime::{Artifact, Session, SessionOptions, TensorView};
use std::error::Error;
use std::fmt::Write;

struct City {
    name: String,
    at: [f64; 2],
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [artifact, csv, svg] = &args[..] else { return Err("usage: tsp ARTIFACT POINTS.csv TOUR.svg".into()) };
    let text = std::fs::read_to_string(csv).map_err(|e| format!("{csv}: {e}"))?;
    let cities = read(&text).map_err(|e| format!("{csv}: {e}"))?;

    let artifact = Artifact::open(artifact)?;
    let mut session = Session::new(&artifact, SessionOptions::default())?;
    let (points, shape) = (in_unit_square(&cities), [1, cities.len(), 2]);
    let input = TensorView::of(&shape, &points)?;
    let outputs = session.entry("forward")?.run(&[("points", input)])?;
    let indices = outputs.get("indices").and_then(|t| t.as_slice::<i64>()).ok_or("the artifact gives no indices")?;
    let order = indices.iter().map(|i| cities.get(usize::try_from(*i).unwrap_or(usize::MAX)));
    let tour: Vec<&City> = order.collect::<Option<_>>().ok_or("the artifact's answer is no tour")?;

    let next = tour.iter().cycle().skip(1);
    let length: f64 = tour.iter().zip(next).map(|(a, b)| (a.at[0] - b.at[0]).hypot(a.at[1] - b.at[1])).sum();
    for city in &tour {
        println!("{},{},{}", city.name, city.at[0], city.at[1]);
    }
    println!("# {} cities, length {length:.4}", tour.len());
    std::fs::write(svg, draw(&tour)).map_err(|e| format!("{svg}: {e}"))?;
    Ok(())
}

fn read(text: &str) -> Result<Vec<City>, String> {
    let mut cities = vec![];
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite());
        let city = match fields[..] {
            [x, y] => number(x).zip(number(y)).map(|(x, y)| City { name: cities.len().to_string(), at: [x, y] }),
            [name, x, y] => number(x).zip(number(y)).map(|(x, y)| City { name: name.to_string(), at: [x, y] }),
            _ => None,
        };
        let heading = n == 0 && fields.iter().all(|f| number(f).is_none());
        match city {
            Some(city) => cities.push(city),
            None if heading => {}
            None => return Err(format!("line {}: expected `x,y` or `name,x,y`, found `{line}`", n + 1)),
        }
    }
    if cities.is_empty() { Err("expected at least one point, found none".into()) } else { Ok(cities) }
}

/// The smallest corner, and the factor by which the larger extent becomes 1.
fn frame(cities: &[&City]) -> ([f64; 2], f64) {
    let by = |f: fn(f64, f64) -> f64, k: usize| cities.iter().map(|c| c.at[k]).reduce(f).unwrap_or(0.0);
    let low = [by(f64::min, 0), by(f64::min, 1)];
    let extent = (by(f64::max, 0) - low[0]).max(by(f64::max, 1) - low[1]);
    (low, if extent > 0.0 { extent.recip() } else { 1.0 })
}

/// The model knows points of the unit square. Equal points are tours of length 0.
fn in_unit_square(cities: &[City]) -> Vec<f32> {
    let (low, scale) = frame(&cities.iter().collect::<Vec<_>>());
    cities.iter().flat_map(|c| [0, 1].map(|k| ((c.at[k] - low[k]) * scale) as f32)).collect()
}

/// The tour as a picture of 480 by 480, the second coordinate upwards.
fn draw(tour: &[&City]) -> String {
    let (low, scale) = frame(tour);
    let at = |c: &City| (40.0 + 400.0 * (c.at[0] - low[0]) * scale, 440.0 - 400.0 * (c.at[1] - low[1]) * scale);
    let escaped = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;");
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"480\" height=\"480\" font-family=\"sans-serif\" font-size=\"12\">\n",
    );
    let ring: Vec<String> = tour.iter().map(|c| format!("{:.1},{:.1}", at(c).0, at(c).1)).collect();
    let _ =
        writeln!(svg, "<polygon points=\"{}\" fill=\"none\" stroke=\"#2a6f97\" stroke-width=\"2\"/>", ring.join(" "));
    for city in tour {
        let (x, y) = at(city);
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#bc4749\"/>");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 7.0, y - 5.0, escaped(&city.name));
    }
    svg.push_str("</svg>\n");
    svg
}
