use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

/// What one guest gets written when it asks for `sizes`, each after so many nanoseconds; and what it was left out.
fn written(steps: &[(u64, u64)]) -> (Vec<(u64, u64)>, Account) {
    let mut account = Account::new(0);
    let mut now_ns = 0;
    let mut lines = Vec::new();
    for &(after_ns, bytes) in steps {
        now_ns += after_ns;
        if account.pay(bytes, now_ns) {
            lines.push((now_ns, bytes));
        } else {
            account.leave_out(bytes);
        }
    }
    (lines, account)
}

/// The most that was written in any minute.
fn worst_minute(lines: &[(u64, u64)]) -> u64 {
    let from = |at: usize| {
        let end = lines[at].0 + MINUTE_NS;
        lines[at..].iter().take_while(|(when, _)| *when < end).map(|(_, bytes)| bytes).sum::<u64>()
    };
    (0..lines.len()).map(from).max().unwrap_or(0)
}

#[test]
fn a_flood_is_cut_counted_and_told() {
    let steps: Vec<_> = (0..100_000).map(|_| (SECOND_NS / 1000, 200)).collect();
    let (lines, mut account) = written(&steps);
    assert!(worst_minute(&lines) <= BURST_BYTES + REFILL_BYTES);
    let total: u64 = lines.iter().map(|(_, bytes)| bytes).sum();
    assert!(total > BURST_BYTES, "the refill is used, too");
    let left_out = LeftOut { lines: 100_000 - lines.len() as u64, bytes: 200 * 100_000 - total };
    let later_ns = 1000 * SECOND_NS;
    assert_eq!(account.take_left_out(later_ns), Some(left_out));
    assert_eq!(account.take_left_out(later_ns), None);
}

#[test]
fn a_message_that_nearly_fits_does_not_open_it() {
    let mut account = Account::new(0);
    // Two KiB too little for the fourth: a moment later there is no more than a moment's refill.
    let size = 4 * 1024 + 200;
    assert_eq!((0..10).filter(|_| account.pay(size, 0)).count(), 3);
    account.leave_out(size);
    let told = (1..100).filter(|n| account.take_left_out(n * SECOND_NS / 10).is_some()).count();
    assert_eq!(told, 0, "within ten seconds");
    assert!(account.take_left_out(11 * SECOND_NS).is_some());
}

#[test]
fn nothing_is_told_before_there_is_room() {
    let mut account = Account::new(0);
    while account.pay(1000, 0) {}
    account.leave_out(1000);
    assert_eq!(account.take_left_out(0), None);
    // A little does not open it: the flood would go on line by line.
    assert!(!account.pay(1, SECOND_NS));
    let reopened_ns = MINUTE_NS * REOPEN_BYTES / REFILL_BYTES + 1;
    assert_eq!(account.take_left_out(reopened_ns), Some(LeftOut { lines: 1, bytes: 1000 }));
    assert!(account.pay(REOPEN_BYTES, reopened_ns));
}

#[test]
fn last_words_are_kept_and_said_once() {
    let mut account = Account::new(0);
    while account.pay(1000, 0) {}
    account.leave_out(1000);
    account.release_last_words(0);
    assert!(account.take_left_out(0).is_some());
    assert!(!account.pay(LAST_WORDS_BYTES + 1001, 0));
    assert!(account.pay(MESSAGE_BYTES as u64, 0), "a report fits, after something that did not");
    account.release_last_words(0);
    assert!(!account.pay(LAST_WORDS_BYTES, 0), "once");
}

#[test]
fn the_thread_decides_who_pays() {
    let (one, other) = (TextBudget::default(), TextBudget::default());
    let spent = |budget: &TextBudget| budget.with(|account| units(BURST_BYTES) - account.left) / units(1);
    let mut out = Vec::new();
    write_line(&mut out, &[b'x'; 100]).unwrap();
    {
        let _one = one.enter();
        write_line(&mut out, &[b'x'; 100]).unwrap();
        {
            let _other = other.enter();
            write_line(&mut out, &[b'x'; 300]).unwrap();
        }
        write_line(&mut out, &[b'x'; 50]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(TextBudget::of_this_thread().is_none()));
        });
    }
    assert!(TextBudget::of_this_thread().is_none());
    // Time passes meanwhile: some of it may be there again.
    assert!(spent(&one) <= 150 && spent(&one) > 100, "{}", spent(&one));
    assert!(spent(&other) <= 300 && spent(&other) > 200, "{}", spent(&other));
    assert_eq!(out.len(), 550);
}

#[test]
fn long_messages_are_cut_and_say_so() {
    let budget = TextBudget::default();
    budget.release_last_words();
    let _entered = budget.enter();
    let mut out = Vec::new();
    write_line(&mut out, &[b'x'; 20 << 10]).unwrap();
    assert!(out.len() < MESSAGE_BYTES + 100 && out.ends_with(b"... (cut, 20480 bytes)\n"));
    assert_eq!(cut("h\u{e9}llo".into(), 5), "h...");
    assert_eq!(cut("hello".into(), 5), "hello");
    assert_eq!(cut("hello".into(), 0), "...");
}

proptest! {
    #[test]
    fn no_minute_has_more_than_a_guest_may_write(
        steps in prop::collection::vec((0_u64..20 * SECOND_NS, 1_u64..20_000), 1..200), last in 0_usize..200
    ) {
        let mut account = Account::new(0);
        let mut now_ns = 0;
        let mut lines = Vec::new();
        for (at, (after_ns, bytes)) in steps.into_iter().enumerate() {
            now_ns += after_ns;
            if at == last {
                account.release_last_words(now_ns);
            }
            if account.pay(bytes, now_ns) {
                lines.push((now_ns, bytes));
            }
        }
        prop_assert!(worst_minute(&lines) <= MINUTE_BYTES);
    }
}
