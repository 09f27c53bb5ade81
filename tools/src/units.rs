//! Numbers as people read them. Units are decimal: MB is 10^6 bytes.
//!
//! Test: below.

/// A number of bytes, three digits or so: `"265.1 MB"`.
pub(crate) fn bytes(n: u64) -> String {
    let n_f = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n_f / 1e6),
        _ => format!("{:.2} GB", n_f / 1e9),
    }
}

/// A count, with its thousands apart: `"28 400 640"`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(265_100_000), "265.1 MB");
        assert_eq!(bytes(1_780_000_000), "1.78 GB");
        assert_eq!(count(28_400_640), "28 400 640");
        assert_eq!(count(0), "0");
        assert_eq!(count(123), "123");
    }
}
