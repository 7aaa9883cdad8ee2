//! Bordered tables: headings in capitals and centred, cells to the right, long cells in several lines.

/// Cells are broken between words where a line would be longer than this.
const CELL_WIDTH_MAX: usize = 30;

/// Draws a table.
pub fn draw(headings: &[&str], rows: &[Vec<String>]) -> String {
    let cells: Vec<Vec<Vec<String>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| wrap(cell)).collect())
        .collect();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let lines = cells
                .iter()
                .filter_map(|row| row.get(at))
                .flat_map(|lines| lines.iter());
            // A column with a broken cell keeps the full width.
            let broken = rows
                .iter()
                .filter_map(|row| row.get(at))
                .any(|cell| width(cell) > CELL_WIDTH_MAX);
            let least = if broken {
                CELL_WIDTH_MAX
            } else {
                width(heading)
            };
            lines
                .map(|line| width(line))
                .chain([width(heading), least])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let border: String = widths
        .iter()
        .map(|w| format!("+{}", "-".repeat(w + 2)))
        .collect::<String>()
        + "+\n";
    let mut out = border.clone();
    let headings = headings.iter().zip(&widths).map(|(heading, w)| {
        let spare = w + 2 - width(heading);
        format!(
            "|{}{}{}",
            " ".repeat(spare / 2),
            heading.to_uppercase(),
            " ".repeat(spare - spare / 2)
        )
    });
    out.push_str(&headings.collect::<String>());
    out.push_str("|\n");
    out.push_str(&border);
    for row in &cells {
        let height = row.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            for (cell, w) in row.iter().zip(&widths) {
                let text = cell.get(line).map_or("", String::as_str);
                out.push_str(&format!("| {}{text} ", " ".repeat(w - width(text))));
            }
            out.push_str("|\n");
        }
    }
    out.push_str(&border);
    out
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Words that fit a line together stay together; a blank at the end of the text is kept.
fn wrap(text: &str) -> Vec<String> {
    if width(text) <= CELL_WIDTH_MAX {
        return vec![text.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= CELL_WIDTH_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_broken_between_words() {
        let rows = [vec![
            "a".to_owned(),
            "memberID:6197509968576257748 alarm:NOSPACE ".to_owned(),
        ]];
        assert_eq!(
            draw(&["x", "errors"], &rows),
            "+---+--------------------------------+\n\
             | X |             ERRORS             |\n\
             +---+--------------------------------+\n\
             | a |   memberID:6197509968576257748 |\n\
             |   |                 alarm:NOSPACE  |\n\
             +---+--------------------------------+\n"
        );
    }
}
