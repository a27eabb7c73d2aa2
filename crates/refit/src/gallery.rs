//! Images that belong together, a row each: a contact sheet (PNG) or a page (HTML).

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use maud::html;
use rayon::prelude::*;
use refit::data::{
    DecodeOptions, Detail, Interpolation, Preprocess, Resize, RgbImage, contact_sheet,
    decode_file_in, to_png,
};
use refit::net::atomic_file;

use crate::failure::Failure;
use crate::report::{page, thumbnail};

/// Pixels of an image's side in the sheet.
const CELL: usize = 160;

/// Rows of a sheet or page, and images of a row, at most.
const ROWS: usize = 200;
const COLUMNS: usize = 12;

/// Where pictures go.
#[derive(Debug, Clone, Args)]
pub struct Gallery {
    /// Draw the images, a row each, into this PNG
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,

    /// Write a page with the images into this HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Images side by side; the first stands apart.
pub struct Row {
    /// What they are.
    pub title: String,
    /// Their files, and what is said of each.
    pub images: Vec<(PathBuf, String)>,
}

impl Gallery {
    /// Whether the files are named as what they will be.
    pub fn check(&self) -> Result<(), Failure> {
        for (file, endings, what) in
            [(&self.sheet, &["png"][..], "a PNG"), (&self.html, &["html", "htm"], "an HTML file")]
        {
            let Some(file) = file else { continue };
            let ending = file.extension().map(|e| e.to_string_lossy().to_lowercase());
            if !ending.is_some_and(|ending| endings.contains(&ending.as_str())) {
                return Err(Failure::mistake(
                    format!("`{}` is not the name of {what}", file.display()),
                    format!("name it something.{}: that is what is written", endings[0]),
                ));
            }
        }
        Ok(())
    }

    /// Draws what is asked for. Without rows nothing is drawn.
    pub fn write(&self, title: &str, rows: &[Row]) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = &rows[..rows.len().min(ROWS)];
        if let Some(file) = &self.sheet {
            let cells = |row: &Row| -> Vec<RgbImage> {
                row.images.par_iter().take(COLUMNS).map(|(path, _)| cell(path)).collect()
            };
            let rows: Vec<Vec<RgbImage>> = rows.iter().map(cells).collect();
            let png = to_png(&contact_sheet(&rows, CELL as u32));
            atomic_file::write(file, |out| out.write_all(&png))?;
        }
        if let Some(file) = &self.html {
            let page = of_rows(title, rows);
            atomic_file::write(file, |out| out.write_all(page.as_bytes()))?;
        }
        Ok(())
    }
}

/// A file's centre; grey where it cannot be read.
fn cell(path: &Path) -> RgbImage {
    let detail = Detail::AtLeast { shorter: CELL as u32, longer: 0 };
    let centre = Preprocess {
        size: CELL,
        resize: Resize::ShorterSide { to: CELL },
        interpolation: Interpolation::Bicubic,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    match decode_file_in(path, &DecodeOptions::default(), detail) {
        Ok(image) => centre.square(&image),
        Err(_) => RgbImage::filled(CELL as u32, CELL as u32, [128; 3]),
    }
}

fn of_rows(title: &str, rows: &[Row]) -> String {
    let content = html! {
        h1 { (title) }
        @for row in rows {
            h3 { (row.title) }
            div.scroll { table { tr {
                @for (path, caption) in row.images.iter().take(COLUMNS) { td {
                    @if let Some(uri) = thumbnail(path) {
                        img src=(uri) alt=(path.display()) title=(path.display())
                            width="112" height="112" loading="lazy";
                    }
                    div.small { (caption) }
                } }
            } } }
            @if row.images.len() > COLUMNS {
                p.soft.small { "and " (row.images.len() - COLUMNS) " more" }
            }
        }
    };
    page(title, &content)
}

/// A path for people: on one line, whatever is in its name.
pub fn shown(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        // A string takes everything that is written to it.
        let _ = match c.is_control() {
            true => write!(text, "{}", c.escape_default()),
            false => write!(text, "{c}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(shown(Path::new("a b\n\u{1b}[2J.jpg")), "a b\\n\\u{1b}[2J.jpg");
        assert_eq!(shown(Path::new("größe.jpg")), "größe.jpg");
    }

    #[test]
    fn files_are_named_as_what_they_are() {
        let gallery = |sheet: &str, html: &str| Gallery {
            sheet: Some(sheet.into()),
            html: Some(html.into()),
        };
        assert!(gallery("a.PNG", "b.html").check().is_ok());
        assert!(gallery("a.jpg", "b.html").check().is_err());
        assert!(gallery("a.png", "b").check().is_err());
    }
}
