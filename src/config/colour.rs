//! Colours, and whether one can be read on another: WCAG's contrast, in integers.

use std::fmt;

/// sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour([u8; 3]);

/// Of a channel's light: 1000^(12/5).
const FULL: u128 = 15_848_931;
/// The least contrast of text, by hundredths (WCAG 2.2 AA).
const READABLE: u128 = 450;

impl Colour {
    pub const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self([red, green, blue])
    }

    /// `#rgb` or `#rrggbb`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#')?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let channel = |at: usize| match digits.len() {
            3 => Some(u8::from_str_radix(&digits[at..=at], 16).ok()? * 17),
            6 => u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok(),
            _ => None,
        };
        Some(Self([channel(0)?, channel(1)?, channel(2)?]))
    }

    fn luminance(self) -> u128 {
        let [red, green, blue] = self.0.map(light);
        (2_126 * red + 7_152 * green + 722 * blue) / 10_000
    }

    /// Whether text of one colour on the other can be read.
    pub fn is_readable_on(self, other: Self) -> bool {
        let (one, other) = (self.luminance(), other.luminance());
        let (lighter, darker) = (one.max(other), one.min(other));
        (lighter + FULL / 20) * 100 >= READABLE * (darker + FULL / 20)
    }

    /// The first of ever lighter ones that can be read on `ground`.
    pub fn lightened_for(self, ground: Self) -> Self {
        let steps = (0_u16..=20).map(|step| {
            let lighter = |channel: u8| {
                let rest = u16::from(u8::MAX - channel) * step / 20;
                channel.saturating_add(u8::try_from(rest).unwrap_or(u8::MAX))
            };
            Self(self.0.map(lighter))
        });
        let mut readable = steps.filter(|one| one.is_readable_on(ground));
        readable.next().unwrap_or(Self::new(255, 255, 255))
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

/// The light of a channel, of [`FULL`]: ((c/255 + 0.055) / 1.055)^2.4.
fn light(channel: u8) -> u128 {
    let channel = u128::from(channel);
    if channel <= 10 {
        return channel * FULL * 100 / (255 * 1_292);
    }
    let base = (channel * 1_000_000 / 255 + 55_000) / 1_055;
    let power = base.pow(12);
    let (mut low, mut high) = (0, FULL + 1);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle.pow(5) <= power {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_read_as_they_are_written() {
        let read = |text| Colour::parse(text).map(|colour| colour.to_string());
        assert_eq!(read("#1F5fbf").as_deref(), Some("#1f5fbf"));
        assert_eq!(read("#0af").as_deref(), Some("#00aaff"));
        for wrong in [
            "", "#", "red", "#12345", "#1234567", "#ggg", "1f5fbf", "#é1",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn contrast_is_that_of_wcag() {
        let on = |one, other| {
            let of = |text| Colour::parse(text).unwrap();
            of(one).is_readable_on(of(other))
        };
        assert!(on("#000", "#fff") && on("#fff", "#000"));
        // 4.54 and 4.48 to one.
        assert!(on("#767676", "#fff"));
        assert!(!on("#777777", "#fff"));
        assert!(!on("#ff0000", "#ffffff"));
        assert!(!on("#fff", "#fff"));
    }

    #[test]
    fn a_dark_colour_is_lightened_until_it_can_be_read() {
        let ground = Colour::new(27, 33, 44);
        for text in ["#000", "#1f5fbf", "#6d28d9", "#ffffff"] {
            let light = Colour::parse(text).unwrap().lightened_for(ground);
            assert!(light.is_readable_on(ground), "{light}");
        }
    }
}
