//! Rows of integers in files, some at a time: .npy, .npz, .safetensors and .csv, the last also compressed by gzip.

use super::{CliError, npy, read_tensors, write_tensors};
use crate::Tensor;
use crate::codec::Codec;
use crate::format::ElemType;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Rows that are held at a time, in bytes.
const PIECE: usize = 1 << 22;
/// Longer lines no file may have.
const MAX_LINE: u64 = 1 << 26;
/// Of a cell that is no number, messages show so many characters.
const MAX_SHOWN: usize = 40;
/// What is held before it is written as one array may not have more bytes.
const MAX_HELD: u64 = 4 << 30;

/// A file of rows that is being read.
pub(super) struct Reader {
    path: PathBuf,
    elem: ElemType,
    columns: usize,
    kind: Kind,
}

enum Kind {
    /// All that is left, or nothing.
    Whole(Option<Tensor>),
    /// So many rows are left.
    Npy { file: BufReader<File>, left: usize },
    /// So many lines have been read. `most` is the number of values of each column.
    Csv { file: Box<dyn BufRead>, line: usize, most: Vec<u32> },
}

impl Reader {
    /// Opens a file, whose content tells its kind. Texts become rows of the smallest type that holds all values.
    pub(super) fn open(path: &Path, codec: &Codec) -> Result<Reader, CliError> {
        let fail = |e: io::Error| CliError::file(path, e);
        let file = File::open(path).map_err(fail)?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let start = file.fill_buf().map_err(fail)?;
        let columns = codec.variables();
        let csv = |file| {
            let most = (0..columns).map(|v| codec.values(v)).collect();
            (codec.elem(), Kind::Csv { file, line: 0, most })
        };
        let (elem, kind) = if start.starts_with(b"\x93NUMPY") {
            open_npy(file, columns).map_err(|e| CliError::file(path, e))?
        } else if start.starts_with(b"PK") || path.extension().is_some_and(|e| e == "safetensors") {
            let tensor = only(path, columns)?;
            (tensor.elem(), Kind::Whole(Some(tensor)))
        } else if start.starts_with(&[0x1f, 0x8b]) {
            csv(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))))
        } else {
            csv(Box::new(file))
        };
        Ok(Reader { path: path.to_owned(), elem, columns, kind })
    }

    pub(super) fn elem(&self) -> ElemType {
        self.elem
    }

    /// The next rows; None at the end.
    pub(super) fn next(&mut self) -> Result<Option<Tensor>, CliError> {
        let rows = (PIECE / self.elem.size() / self.columns).max(1);
        let fail = |e: String| CliError::file(&self.path, e);
        match &mut self.kind {
            Kind::Whole(tensor) => Ok(tensor.take()),
            Kind::Npy { left: 0, .. } => Ok(None),
            Kind::Npy { file, left } => {
                let rows = rows.min(*left);
                *left -= rows;
                let mut tensor = Tensor::zeros(self.elem, &[rows, self.columns])?;
                file.read_exact(tensor.bytes_mut()).map_err(|e| fail(e.to_string()))?;
                Ok(Some(tensor))
            }
            Kind::Csv { file, line, most } => {
                let mut bytes = vec![];
                let mut count = 0;
                while count < rows {
                    let mut text = String::new();
                    let n = file.take(MAX_LINE).read_line(&mut text);
                    if let Ok(0) = n {
                        break;
                    }
                    *line += 1;
                    let at = |e: String| fail(format!("line {line}: {e}"));
                    if n.map_err(|e| at(e.to_string()))? as u64 == MAX_LINE && !text.ends_with('\n') {
                        return Err(at(format!("expected lines of at most {MAX_LINE} bytes, found a longer one")));
                    }
                    // Spreadsheets begin their files with a mark of the byte order.
                    let text = if *line == 1 { text.trim_start_matches('\u{feff}') } else { &text };
                    if !text.trim().is_empty() {
                        parse_row(text, most, self.elem.size(), &mut bytes).map_err(at)?;
                        count += 1;
                    }
                }
                let mut tensor = Tensor::zeros(self.elem, &[count, self.columns])?;
                tensor.bytes_mut().copy_from_slice(&bytes);
                Ok(Some(tensor).filter(|_| count > 0))
            }
        }
    }
}

fn open_npy(mut file: BufReader<File>, columns: usize) -> Result<(ElemType, Kind), String> {
    let header = npy::read_header(&mut file)?;
    let [rows, found] = header.shape[..] else {
        return Err(format!("expected an array [rows, {columns}], found {:?}", header.shape));
    };
    if found != columns {
        return Err(format!("expected {columns} columns, as the circuit has variables, found {found}"));
    }
    if !header.fortran {
        return Ok((header.elem, Kind::Npy { file, left: rows }));
    }
    let size = header.elem.size();
    let bytes = [rows, columns, size].into_iter().try_fold(1, usize::checked_mul).ok_or("its shape is too large")?;
    let mut held = vec![];
    file.take(bytes as u64).read_to_end(&mut held).map_err(|e| e.to_string())?;
    if held.len() < bytes {
        return Err(format!("it holds {} bytes of {bytes}", held.len()));
    }
    let mut tensor = Tensor::zeros(header.elem, &header.shape).map_err(|e| e.to_string())?;
    npy::from_fortran(&held, &header.shape, size, tensor.bytes_mut());
    Ok((header.elem, Kind::Whole(Some(tensor))))
}

/// The array `x`, or the only one.
fn only(path: &Path, columns: usize) -> Result<Tensor, CliError> {
    let fail = |e: String| CliError::file(path, e);
    let mut tensors = read_tensors(path, |_| Ok(()))?;
    let names: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let at = names.iter().position(|n| n == "x").or(Some(0).filter(|_| names.len() == 1));
    let at = at.ok_or_else(|| fail(format!("expected one array, or one named x, found {}", names.join(", "))))?;
    let tensor = tensors.swap_remove(at).1;
    match tensor.shape() {
        [_, found] if *found == columns => Ok(tensor),
        shape => Err(fail(format!("expected an array [rows, {columns}], found {shape:?}"))),
    }
}

/// A cell of a file as it may stand in a message: quoted, escaped and cut to a readable length.
fn shown(cell: &str) -> String {
    match cell.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}...", &cell[..end]),
        None => format!("{cell:?}"),
    }
}

/// Appends a line's values, as native numbers of `size` bytes.
fn parse_row(text: &str, most: &[u32], size: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    let mut columns = 0;
    for cell in text.trim_end().split([',', ';']) {
        let cell = cell.trim();
        let value: i64 =
            cell.parse().map_err(|_| format!("variable {columns}: expected an integer, found {}", shown(cell)))?;
        if let Some(most) = most.get(columns) {
            let known = u32::try_from(value).ok().filter(|v| v < most);
            let known = known.ok_or_else(|| {
                format!("variable {columns}: the value {value} is outside of the circuit's 0..{most}")
            })?;
            match size {
                1 => bytes.push(known as u8),
                2 => bytes.extend((known as u16).to_ne_bytes()),
                _ => bytes.extend(known.to_ne_bytes()),
            }
        }
        columns += 1;
    }
    if columns == most.len() { Ok(()) } else { Err(format!("expected {} columns, found {columns}", most.len())) }
}

/// The kinds of files that rows are written to.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Npy,
    /// .npz and .safetensors, which are written at once.
    Held,
    Csv,
    CsvGz,
}

impl Target {
    /// By the ending of the name.
    pub(super) fn of(path: &Path) -> Result<Target, CliError> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let kinds = [
            (".npy", Target::Npy),
            (".npz", Target::Held),
            (".safetensors", Target::Held),
            (".csv", Target::Csv),
            (".csv.gz", Target::CsvGz),
        ];
        let found = kinds.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind);
        found.ok_or_else(|| CliError::file(path, "rows go to .npy, .npz, .safetensors, .csv or .csv.gz"))
    }

    /// Writes all rows that `next` gives, of one type and width. A failure leaves what was at the path.
    pub(super) fn write(
        self,
        path: &Path,
        elem: ElemType,
        columns: usize,
        mut next: impl FnMut() -> Result<Option<Tensor>, CliError>,
    ) -> Result<(), CliError> {
        if let Target::Held = self {
            let mut bytes: Vec<u8> = vec![];
            while let Some(rows) = next()? {
                if (bytes.len() + rows.bytes().len()) as u64 > MAX_HELD {
                    let text = format!("more than {MAX_HELD} bytes of rows go to .npy or .csv only");
                    return Err(CliError::file(path, text));
                }
                bytes.extend_from_slice(rows.bytes());
            }
            let mut tensor = Tensor::zeros(elem, &[bytes.len() / elem.size() / columns, columns])?;
            tensor.bytes_mut().copy_from_slice(&bytes);
            return write_tensors(path, &[("x", tensor.view())]);
        }
        let (file, destination) = crate::Destination::create(path).map_err(|e| CliError::file(path, e))?;
        let fail = |e: io::Error| CliError::file(path, e);
        match self {
            Target::CsvGz => {
                let mut out = GzEncoder::new(BufWriter::new(file), Compression::default());
                write_csv(&mut out, &mut next, path)?;
                out.finish().and_then(|mut out| out.flush()).map_err(fail)?;
            }
            Target::Csv => {
                let mut out = BufWriter::new(file);
                write_csv(&mut out, &mut next, path)?;
                out.flush().map_err(fail)?;
            }
            Target::Npy | Target::Held => write_npy(file, elem, columns, &mut next, path)?,
        }
        destination.commit().map_err(fail)
    }
}

fn write_csv(
    out: &mut dyn Write,
    next: &mut dyn FnMut() -> Result<Option<Tensor>, CliError>,
    path: &Path,
) -> Result<(), CliError> {
    while let Some(rows) = next()? {
        let columns = rows.shape()[1];
        let size = rows.elem().size();
        let mut text = String::new();
        for (i, bytes) in rows.bytes().chunks_exact(size).enumerate() {
            text += &crate::codec::integer(rows.elem(), bytes).to_string();
            text.push(if (i + 1) % columns == 0 { '\n' } else { ',' });
        }
        out.write_all(text.as_bytes()).map_err(|e| CliError::file(path, e))?;
    }
    Ok(())
}

fn write_npy(
    mut file: File,
    elem: ElemType,
    columns: usize,
    next: &mut dyn FnMut() -> Result<Option<Tensor>, CliError>,
    path: &Path,
) -> Result<(), CliError> {
    let fail = |e: io::Error| CliError::file(path, e);
    // The number of rows is known at the end; room is left for any.
    let header = |rows: usize| npy::header_with_room(elem, &[rows, columns], &[usize::MAX, columns]);
    let header = |rows: usize| header(rows).ok_or_else(|| CliError::file(path, format!(".npy has no {elem}")));
    file.write_all(&header(0)?).map_err(fail)?;
    let mut total = 0;
    while let Some(rows) = next()? {
        file.write_all(rows.bytes()).map_err(fail)?;
        total += rows.shape()[0];
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    file.write_all(&header(total)?).map_err(fail)
}
