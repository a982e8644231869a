//! A run's plot: a panel for each guest, with what it has, should have, has committed, and has in transcendent memory.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::trace::model::Model;

const PIXELS: (u32, u32) = (1100, 900);
const CURRENT: RGBColor = RGBColor(0, 114, 178);
const GOAL: RGBColor = RGBColor(213, 94, 0);
const COMMITTED: RGBColor = RGBColor(150, 150, 150);
const EPHEMERAL: RGBColor = RGBColor(0, 158, 115);
const PERSISTENT: RGBColor = RGBColor(204, 121, 167);

type Line = Vec<(f64, f64)>;
type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn seconds(time_ns: u64) -> f64 {
    time_ns as f64 / 1e9
}

fn mib(pages: impl Into<u64>) -> f64 {
    pages.into() as f64 / 256.0
}

/// Draws the guests that reported into an SVG file.
///
/// # Errors
/// The file cannot be written.
pub fn write(model: &Model, title: &str, path: &Path) -> Result<()> {
    // The backend's errors borrow the path; keep their text.
    draw(model, title, path).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

/// A guest's lines, in the order of the legend.
fn lines(model: &Model, id: u16) -> [(&'static str, RGBColor, Line); 5] {
    let points = || model.history.iter().filter(move |point| point.domid == id);
    let steps = || model.selfballoon.iter().filter(move |(_, domid, _)| *domid == id);
    [
        // The balloon's own: the hypervisor counts persistent pages as the domain's memory, too.
        ("current", CURRENT, steps().map(|(t, _, s)| (seconds(*t), mib(s.current))).collect()),
        ("goal", GOAL, steps().map(|(t, _, s)| (seconds(*t), mib(s.goal))).collect()),
        ("committed", COMMITTED, steps().map(|(t, _, s)| (seconds(*t), mib(s.committed))).collect()),
        ("tmem, ephemeral", EPHEMERAL, points().map(|p| (seconds(p.time_ns), mib(p.tmem[0]))).collect()),
        ("tmem, persistent", PERSISTENT, points().map(|p| (seconds(p.time_ns), mib(p.tmem[1]))).collect()),
    ]
}

fn draw(model: &Model, title: &str, path: &Path) -> Drawn<()> {
    let root = SVGBackend::new(path, PIXELS).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 20))?;
    let mut ids: Vec<u16> = model.selfballoon.iter().map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    let guests: Vec<_> = ids.into_iter().map(|id| (id, lines(model, id))).collect();
    let greatest = guests.iter().flat_map(|(_, lines)| lines).flat_map(|(_, _, line)| line).map(|(_, y)| *y);
    let top = greatest.fold(1.0, f64::max) * 1.05;
    for ((id, lines), area) in guests.iter().zip(root.split_evenly((guests.len().max(1), 1))) {
        let name = model.domains.get(id).map_or("", |domain| domain.name.as_str());
        panel(&area, name, lines, seconds(model.now_ns).max(1.0), top)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    name: &str,
    lines: &[(&'static str, RGBColor, Line); 5],
    right: f64,
    top: f64,
) -> Drawn<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().x_desc("seconds").y_desc("MiB").light_line_style(WHITE.mix(0.0)).draw()?;
    for (label, colour, line) in lines {
        let style = colour.stroke_width(if *label == "current" { 2 } else { 1 });
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(COMMITTED)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_abi::guest_event::SelfballoonStep;

    #[test]
    fn every_guest_has_a_panel() {
        let mut model = Model { now_ns: 5_000_000_000, ..Model::default() };
        for (id, name) in [(1, "ebb-one"), (2, "ebb-two")] {
            let domain = crate::trace::model::Domain { name: name.into(), ..Default::default() };
            model.domains.insert(id, domain);
            model.selfballoon.push((1_000_000_000, id, SelfballoonStep { goal: 512, ..Default::default() }));
            model.selfballoon.push((2_000_000_000, id, SelfballoonStep { goal: 1024, ..Default::default() }));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.svg");
        write(&model, "a title", &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["ebb-one", "ebb-two", "a title", "committed", "tmem, persistent"] {
            assert!(text.contains(word), "{word}");
        }
        write(&Model::default(), "nothing", &path).unwrap();
        assert!(write(&model, "", Path::new("/nonexistent/run.svg")).is_err());
    }
}
