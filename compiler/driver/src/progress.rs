//! A line that says what is being done, for anything that takes longer than a second, when stderr is a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The line; gone when dropped.
pub struct Progress {
    bar: ProgressBar,
    done: Arc<AtomicBool>,
}

impl Progress {
    /// A line that appears after a second.
    pub fn start(what: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let done = Arc::new(AtomicBool::new(false));
        if std::io::stderr().is_terminal() {
            let (bar, done) = (bar.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(1));
                if !done.load(Ordering::Relaxed) {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            });
        }
        let progress = Progress { bar, done };
        progress.say(what);
        progress
    }

    fn look(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// `n` things are being done now: a bar, with an estimate of the time that the rest takes.
    pub fn count(&self, what: &str, n: u64) {
        self.look("{spinner} {msg} {bar:30} {pos}/{len} {elapsed}, {eta} left");
        self.bar.set_message(what.to_string());
        self.bar.set_length(n);
        self.bar.reset();
    }

    /// One of the things of [`Progress::count`] is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Does something that prints on stderr too.
    pub fn suspend(&self, f: impl FnOnce()) {
        self.bar.suspend(f);
    }

    /// Another thing is being done now.
    pub fn say(&self, what: &str) {
        self.look("{spinner} {msg} {elapsed}");
        self.bar.set_message(what.to_string());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.bar.finish_and_clear();
    }
}
