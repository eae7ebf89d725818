//! The guest's random number generator: ChaCha20 keyed by the VMM's seed, anew for every guest and every restore.

use core::cell::RefCell;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The generator behind getrandom(2), /dev/urandom and AT_RANDOM.
pub struct Random(RefCell<ChaCha20Rng>);

impl Random {
    /// A generator whose output depends on all of `seed`.
    #[must_use]
    pub fn new(seed: &[u8; 64]) -> Self {
        Self(RefCell::new(Self::generator(seed)))
    }

    /// Both halves of the seed key the generator: the second one's stream is mixed into the first one's key.
    fn generator(seed: &[u8; 64]) -> ChaCha20Rng {
        let mut key = [0; 32];
        let mut other = [0; 32];
        key.copy_from_slice(&seed[..32]);
        other.copy_from_slice(&seed[32..]);
        let mut mixed = [0; 32];
        ChaCha20Rng::from_seed(other).fill_bytes(&mut mixed);
        for (byte, more) in key.iter_mut().zip(mixed) {
            *byte ^= more;
        }
        ChaCha20Rng::from_seed(key)
    }

    /// Fill with random bytes.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.borrow_mut().fill_bytes(bytes);
    }

    /// A random word.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// Start again from a new seed.
    pub fn reseed(&self, seed: &[u8; 64]) {
        *self.0.borrow_mut() = Self::generator(seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_byte_matters() {
        let reference = Random::new(&[0; 64]).next_u64();
        for at in 0..64 {
            let mut seed = [0; 64];
            seed[at] = 1;
            assert_ne!(Random::new(&seed).next_u64(), reference, "byte {at}");
        }
    }
}
