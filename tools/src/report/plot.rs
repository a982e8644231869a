//! `run.svg`: memory per domain over time, what each aimed at (dashed), and what the host had free.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::trace::model::Model;

/// Colours that remain distinct to the colour-blind (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const HOST_FREE: RGBColor = RGBColor(150, 150, 150);
const PIXELS: (u32, u32) = (1100, 620);

type Line = Vec<(f64, f64)>;

fn seconds(time_ns: u64) -> f64 {
    time_ns as f64 / 1e9
}

fn mib(pages: u64) -> f64 {
    pages as f64 / 256.0
}

/// Draws the history into an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn write(model: &Model, path: &Path) -> Result<()> {
    // The backend's errors borrow the path; keep their text.
    draw(model, path).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

fn draw(model: &Model, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let most_pages = model.history.iter().map(|p| p.current.max(u64::from(p.target.unwrap_or(0)))).max();
    let most_free = model.host_history.iter().map(|(_, h)| h.free + h.scrubbing).max();
    let top = mib(most_pages.max(most_free).unwrap_or(0)).max(1.0) * 1.05;
    let right = seconds(model.now_ns).max(1.0);

    let root = SVGBackend::new(path, PIXELS).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Memory per domain (dashed: target)", ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().x_desc("seconds").y_desc("MiB").light_line_style(WHITE.mix(0.0)).draw()?;

    let free: Line = model.host_history.iter().map(|(t, h)| (seconds(*t), mib(h.free + h.scrubbing))).collect();
    chart
        .draw_series(LineSeries::new(free, HOST_FREE.stroke_width(1)))?
        .label("host free")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], HOST_FREE));

    for (index, (id, domain)) in model.domains.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = || model.history.iter().filter(|p| p.domid == *id);
        let mut current: Line = points().map(|p| (seconds(p.time_ns), mib(p.current))).collect();
        if let Some((end, _)) = domain.ended {
            current.push((seconds(end), 0.0));
        }
        let target: Line = points().filter_map(|p| Some((seconds(p.time_ns), mib(p.target?.into())))).collect();
        chart
            .draw_series(LineSeries::new(current, colour.stroke_width(2)))?
            .label(format!("{} (d{id})", domain.name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(DashedLineSeries::new(target, 5, 4, colour.stroke_width(1)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(HOST_FREE)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    fn svg(model: &Model) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.svg");
        write(model, &path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn every_domain_is_drawn() {
        let text = svg(&model_of(&made_up_run()));
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for label in ["spring (d1)", "neap (d2)", "host free"] {
            assert!(text.contains(label), "{label}");
        }
    }

    #[test]
    fn an_empty_run_is_drawn_too() {
        assert!(svg(&Model::default()).contains("MiB"));
    }

    #[test]
    fn a_run_cannot_be_drawn_nowhere() {
        assert!(write(&Model::default(), Path::new("/nonexistent/run.svg")).is_err());
    }
}
