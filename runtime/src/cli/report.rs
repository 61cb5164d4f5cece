//! The `inspect --html` report: one page without scripts or anything from elsewhere.

use super::inspect::{shown, step_text};
use crate::Artifact;
use crate::artifact::hex;
use crate::format::Port;

const HEAD: &str = "<!doctype html><meta charset=utf-8><style>\
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}\
table{border-collapse:collapse;margin:.5em 0}td,th{border-bottom:1px solid #ddd;padding:.2em .8em;text-align:left;\
vertical-align:top}th{font-weight:600}code,pre{font:13px/1.5 ui-monospace,monospace}pre{white-space:pre-wrap}</style>";

/// The whole page. Plans are those of target `best`, or of the first. `rewrites` is shown as it stands.
pub(super) fn page(artifact: &Artifact, best: Option<usize>, rewrites: &str) -> String {
    let manifest = artifact.manifest();
    let mut html = HEAD.to_owned();
    let title = escape(&manifest.model_name);
    html.push_str(&format!("<title>{title}</title><h1>{title}</h1>"));
    let signer = artifact.signer().map_or("not signed".to_owned(), |key| format!("signed by {}", hex(&key)));
    let facts = [
        ("producer", manifest.producer.clone()),
        ("root", hex(&artifact.root())),
        ("signature", signer),
        ("file", format!("{} bytes", artifact.file_bytes())),
    ];
    table(&mut html, &["", ""], facts.into_iter().map(|(key, value)| vec![key.to_owned(), value]));

    heading(&mut html, "Entries");
    let ports = |ports: &[Port]| ports.iter().map(|p| manifest.describe(p)).collect::<Vec<_>>().join("\n");
    let entries = manifest.entries.iter().map(|e| vec![e.name.clone(), ports(&e.inputs), ports(&e.outputs)]);
    table(&mut html, &["entry", "inputs", "outputs"], entries);

    heading(&mut html, "Targets");
    let targets = manifest.targets.iter().enumerate().map(|(i, t)| {
        let here = if Some(i) == best { "used on this machine" } else { "" };
        vec![t.name.clone(), format!("{} kernels", t.functions()), here.to_owned()]
    });
    table(&mut html, &["target", "", ""], targets);

    heading(&mut html, "Sections");
    let sections = artifact.sections().iter().map(|s| vec![s.label(), s.offset.to_string(), s.len.to_string()]);
    table(&mut html, &["section", "offset", "bytes"], sections);

    heading(&mut html, "Metadata");
    table(&mut html, &["key", "value"], manifest.metadata.iter().map(|(key, value)| vec![key.clone(), value.clone()]));

    let names = manifest.symbol_names();
    for (name, plan) in shown(artifact, best) {
        heading(&mut html, &format!("Plan of {name}"));
        let (arena, scratch) = (plan.arena_bytes.display(&names), plan.scratch_bytes.display(&names));
        let memory = [vec!["arena".to_owned(), arena], vec!["scratch of each thread".to_owned(), scratch]];
        table(&mut html, &["memory", "bytes"], memory.into_iter());
        let steps = plan.blocks.iter().enumerate().flat_map(|(b, block)| {
            let text = move |step| vec![b.to_string(), step_text(manifest, best.unwrap_or(0), step)];
            block.steps.iter().map(text)
        });
        table(&mut html, &["block", "step"], steps);
    }
    heading(&mut html, "Rewrites");
    html.push_str(&format!("<pre>{}</pre>\n", escape(rewrites)));
    html
}

fn heading(html: &mut String, text: &str) {
    html.push_str(&format!("<h2>{}</h2>\n", escape(text)));
}

fn table(html: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    html.push_str("<table><tr>");
    head.iter().for_each(|cell| html.push_str(&format!("<th>{cell}</th>")));
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            html.push_str(&format!("<td><pre>{}</pre></td>", escape(&cell)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn escape(text: &str) -> String {
    let safe = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(safe).collect()
}
