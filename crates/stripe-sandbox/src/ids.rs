//! Object ids with Stripe's prefixes, in a sequence determined by a seed.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A source of ids. The same seed gives the same ids in the same order, so that
/// a run can be repeated exactly.
#[derive(Debug, Clone)]
pub struct IdSource {
    state: u64,
}

impl IdSource {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next id: `prefix`, an underscore and 24 letters and digits.
    pub fn next(&mut self, prefix: &str) -> String {
        format!("{prefix}_{}", self.token(24))
    }

    /// Random letters and digits.
    pub fn token(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| {
                let index = usize::try_from(self.draw() % 62).unwrap_or_default();
                char::from(ALPHABET[index])
            })
            .collect()
    }

    /// SplitMix64: small, seedable, and well distributed for any seed.
    const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
