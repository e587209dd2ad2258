//! Time in equal bins.
//!
//! It owns how an amount is spread over the bins between two looks, and how two bins become one.

use std::time::Duration;

/// The time between two looks, over the bins that it touches.
pub struct Span {
    from: Duration,
    to: Duration,
    width: u64,
}

/// The part of a span that lies in one bin, in milliseconds from the span's start.
pub struct Part {
    pub bin: usize,
    from: u64,
    to: u64,
    whole: u64,
}

impl Span {
    pub fn new(from: Duration, to: Duration, width: u64) -> Self {
        Self { from, to, width }
    }

    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let (from, to, width) = (self.from.as_millis() as u64, self.to.as_millis() as u64, self.width);
        // A span without length, and one that ends where a bin begins, belong to the bin of their end.
        (from / width..=to / width).filter_map(move |bin| {
            let (begin, end) = ((bin * width).max(from), ((bin + 1) * width).min(to));
            let part = Part { bin: bin as usize, from: begin - from, to: end - from, whole: to - from };
            (end > begin || from == to).then_some(part)
        })
    }
}

impl Part {
    /// Its share of something that is spread over the whole span. The shares of all parts make up the whole.
    pub fn of(&self, amount: u64) -> u64 {
        if self.whole == 0 {
            return amount;
        }
        let until = |time: u64| (u128::from(amount) * u128::from(time) / u128::from(self.whole)) as u64;
        until(self.to) - until(self.from)
    }

    pub fn time(&self) -> u32 {
        (self.to - self.from) as u32
    }
}

/// Two bins become one.
pub fn halve<T: Copy>(bins: &mut Vec<T>, merge: impl Fn(&mut T, &T)) {
    let pairs = bins.chunks(2).map(|pair| {
        let mut sum = pair[0];
        pair.iter().skip(1).for_each(|other| merge(&mut sum, other));
        sum
    });
    *bins = pairs.collect();
}
