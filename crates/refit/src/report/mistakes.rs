//! The images that tell most: confident mistakes, and those that the model was least sure of.

use std::path::Path;

use maud::{Markup, html};
use rayon::prelude::*;
use refit::Model;
use refit::data::{DecodeOptions, RgbImage, decode_file_in};
use refit::learn::{Explainer, Judgement, Method};

use super::picture::{centre, heated, plain, scale};
use super::{Run, images_of, part};
use crate::output::percent;

/// Pictures of each kind.
const SHOWN: usize = 12;

pub fn section(run: &Run) -> Option<Markup> {
    let all = run.record.predictions.as_ref()?;
    let (split, metrics) = run.judged()?;
    let judged: Vec<&Judgement> = all.iter().filter(|p| p.split == split).collect();
    let (wrong, unsure) = chosen(&judged);
    let mistakes = judged.iter().filter(|p| !p.is_right()).count();
    let gallery = Gallery::new(run);
    let shows = html! {
        @if let Some(layer) = gallery.explainer.as_ref().map(Explainer::layer) {
            div.scale {
                span { "less" } i style={ "background:" (scale()) } {} span { "more of what speaks for the class, at " code { (layer) } }
            }
        }
        div {
            h3 { @match (mistakes, wrong.len()) {
                (0, _) => "No mistakes",
                (1, _) => "The one mistake",
                (n, shown) if n > shown => { "Mistakes, the most confident " (shown) " of " (n) },
                (n, _) => { "Mistakes, all " (n) ", the most confident first" },
            } }
            (gallery.cases(&wrong))
        }
        @if !unsure.is_empty() { div {
            h3 { "Least sure" @if mistakes > wrong.len() { " of the others" } }
            (gallery.cases(&unsure))
        } }
    };
    let meaning = html! {
        p { "Of " (images_of(split, metrics.samples)) "."
            @if gallery.explainer.is_some() { " Beside each image, as the network sees it, lies what \
             speaks for the class that it was taken for (Grad-CAM)." } }
        p { "A confident mistake is often a wrong label." }
    };
    Some(part("mistakes", "Mistakes and doubts", &meaning, &shows))
}

/// The most confident mistakes, and the least confident of the other images.
fn chosen<'a>(judged: &[&'a Judgement]) -> (Vec<&'a Judgement>, Vec<&'a Judgement>) {
    let (mut right, mut wrong): (Vec<&Judgement>, Vec<&Judgement>) =
        judged.iter().copied().partition(|p| p.is_right());
    wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    right.extend(wrong.iter().skip(SHOWN));
    wrong.truncate(SHOWN);
    right.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    right.truncate(SHOWN);
    (wrong, right)
}

/// Shows cases as far as images and model are there.
struct Gallery<'a> {
    classes: &'a [String],
    model: Option<&'a Model>,
    explainer: Option<Explainer<'a>>,
}

impl<'a> Gallery<'a> {
    fn new(run: &Run<'a>) -> Self {
        // A network without maps is shown without heat.
        let explain = |model| Explainer::new(model, None, Method::GradCam).ok();
        Self {
            classes: &run.record.report.classes,
            model: run.model,
            explainer: run.model.and_then(explain),
        }
    }

    fn cases(&self, cases: &[&Judgement]) -> Markup {
        let images: Vec<Option<RgbImage>> =
            cases.par_iter().map(|p| self.square(&p.path)).collect();
        html! {
            div.cases {
                @for (case, image) in cases.iter().zip(&images) { (self.case(case, image.as_ref())) }
            }
        }
    }

    /// What the network sees of a file; its centre where the model is gone.
    fn square(&self, path: &Path) -> Option<RgbImage> {
        let preprocess = self.model.map_or_else(centre, |model| model.card.preprocess);
        let image = decode_file_in(path, &DecodeOptions::default(), preprocess.detail()).ok()?;
        Some(preprocess.square(&image))
    }

    fn case(&self, case: &Judgement, image: Option<&RgbImage>) -> Markup {
        let [label, predicted] = [case.label, case.predicted].map(|c| self.classes[c].as_str());
        let explain = |explainer: &Explainer, image: &RgbImage| {
            heated(image, &explainer.explain_square(image, Some(case.predicted)).map)
        };
        let heat = image.zip(self.explainer.as_ref()).map(|(image, e)| explain(e, image));
        html! {
            figure {
                div.pair {
                    @if let Some(image) = image {
                        (picture(&plain(image), &format!("an image of class {label}")))
                    } @else {
                        div.gone { "the image is gone" }
                    }
                    @if let Some(heat) = heat {
                        (picture(&heat, &format!("the same, under what speaks for {predicted}")))
                    }
                }
                figcaption {
                    @if case.is_right() {
                        b { (label) } ", rightly, at " (percent(case.probability.into()))
                    } @else {
                        b { (label) } " taken for " b { (predicted) } " at "
                        (percent(case.probability.into()))
                        span.soft { " (" (label) ": " (percent(case.label_probability.into())) ")" }
                    }
                    span.path title=(case.path.display()) { bdi { (case.path.display()) } }
                }
            }
        }
    }
}

fn picture(uri: &str, says: &str) -> Markup {
    html! { img src=(uri) alt=(says) width="176" height="176" loading="lazy"; }
}

#[cfg(test)]
mod tests {
    use refit::learn::Split;

    use super::*;

    #[test]
    fn confident_mistakes_and_doubts_are_chosen() {
        let case = |label, probability| Judgement {
            path: "x".into(),
            split: Split::Val,
            fold: None,
            label,
            predicted: 0,
            probability,
            label_probability: 0.1,
        };
        let cases: Vec<Judgement> =
            [(0, 0.9), (1, 0.6), (0, 0.51), (1, 0.95)].map(|(l, p)| case(l, p)).to_vec();
        let (wrong, unsure) = chosen(&cases.iter().collect::<Vec<_>>());
        let sure = |found: &[&Judgement]| found.iter().map(|p| p.probability).collect::<Vec<_>>();
        assert_eq!((sure(&wrong), sure(&unsure)), (vec![0.95, 0.6], vec![0.51, 0.9]));
    }
}
