//! Two sequences side by side, for assertion failures.

use std::fmt::{Debug, Write};

/// What differs between `left` and `right`: common items with a blank in front, items of one side only with its sign.
/// Long runs of common items are shortened.
pub(crate) fn diff<T: Debug + PartialEq>(left: &[T], right: &[T]) -> String {
    let mut lines = Vec::new();
    let (mut i, mut j) = (0, 0);
    let common = common_lengths(left, right);
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            lines.push((' ', format!("{:?}", left[i])));
            i += 1;
            j += 1;
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', format!("{:?}", left[i])));
            i += 1;
        } else {
            lines.push(('+', format!("{:?}", right[j])));
            j += 1;
        }
    }
    render(&lines)
}

/// `[i][j]`: length of the longest common subsequence of `left[i..]` and `right[j..]`.
fn common_lengths<T: PartialEq>(left: &[T], right: &[T]) -> Vec<Vec<u32>> {
    let mut common = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            common[i][j] = match left[i] == right[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    common
}

fn render(lines: &[(char, String)]) -> String {
    const CONTEXT: usize = 5;
    let near_change = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        lines[from..lines.len().min(at + CONTEXT + 1)].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    let mut left_out = 0;
    for (at, (sign, line)) in lines.iter().enumerate() {
        if !near_change(at) {
            left_out += 1;
            continue;
        }
        if left_out > 0 {
            let _ = writeln!(text, "    ({left_out} the same)");
            left_out = 0;
        }
        let _ = writeln!(text, "  {sign} {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn shows_what_is_on_one_side_only() {
        assert_eq!(diff(&["a", "b", "c"], &["a", "c", "d"]), "    \"a\"\n  - \"b\"\n    \"c\"\n  + \"d\"\n");
    }

    #[test]
    fn shortens_what_is_the_same() {
        let left: Vec<u32> = (0..100).collect();
        let mut right = left.clone();
        right[50] = 1000;
        let shown = diff(&left, &right);
        assert!(shown.starts_with("    (45 the same)\n    45\n"), "{shown}");
        assert_eq!(shown.lines().count(), 1 + 5 + 2 + 5, "{shown}");
    }
}
