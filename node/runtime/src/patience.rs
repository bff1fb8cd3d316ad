//! Trying again until a deadline, where the kernel offers no event that could be waited for.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The first pause between two attempts, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Attempts it until it is there, once more when `wait` is over. `None` when it is not there then.
///
/// # Errors
///
/// That of the first attempt that fails.
pub(crate) fn until<T, E>(
    wait: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let deadline = Instant::now() + wait;
    let mut pause = PAUSE_MIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let there = attempt()?;
        if there.is_some() || left.is_zero() {
            return Ok(there);
        }
        thread::park_timeout(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_is_attempted_until_it_is_there_or_fails() {
        let mut attempts = 0;
        let there = until(LONG, || {
            attempts += 1;
            Ok::<_, ()>((attempts == 3).then_some(attempts))
        });
        assert_eq!(there, Ok(Some(3)));
        assert_eq!(until::<(), _>(LONG, || Err("refused")), Err("refused"));
    }

    #[test]
    fn without_time_it_is_attempted_once() {
        let mut attempts = 0;
        let there = until(Duration::ZERO, || {
            attempts += 1;
            Ok::<Option<()>, ()>(None)
        });
        assert_eq!((there, attempts), (Ok(None), 1));
    }
}
