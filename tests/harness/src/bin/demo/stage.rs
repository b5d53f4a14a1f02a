//! The output of the demo: steps, commands as a user types them, their output, and results of checks.

use std::{
    cell::RefCell,
    env,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use valet_harness::{Context, Error, Result, Scratch, process};

/// Longer than any command of the demo waits.
const LONGEST: Duration = Duration::from_secs(120);
/// The output of a command is limited to this number of columns and lines, because one line of XML can fill the
/// screen.
const COLUMNS: usize = 150;
const LINES: usize = 40;

/// Prints the demo and runs its commands with `sh -c`, exactly as they are printed.
pub struct Stage {
    scratch: Scratch,
    env: Vec<(String, String)>,
    colour: bool,
    live: bool,
    shown: RefCell<String>,
    steps: u32,
    kept: u32,
    broken: Vec<String>,
    began: Instant,
}

impl Stage {
    /// Creates the output. `programs` are folders that are searched for commands before the usual folders.
    pub fn new(programs: &[&Path]) -> Result<Self> {
        let scratch = Scratch::new("demo")?;
        let old = env::var_os("PATH").unwrap_or_default();
        let path = programs.iter().map(PathBuf::from).chain(env::split_paths(&old));
        let path = env::join_paths(path).context("cannot set PATH")?;
        let live = std::io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Self {
            env: vec![("PATH".into(), path.to_string_lossy().into_owned())],
            scratch,
            colour: live && !plain,
            live,
            shown: RefCell::default(),
            steps: 0,
            kept: 0,
            broken: Vec::new(),
            began: Instant::now(),
        })
    }

    /// Sets an environment variable for the commands.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.push((name.to_owned(), value.into()));
    }

    /// The additional environment variables of the commands.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The working folder of the commands.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Prints the title.
    pub fn title(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    /// Prints the title of a step and its explanation.
    pub fn step(&mut self, title: &str, explanation: &str) {
        self.steps += 1;
        println!(
            "\n{} {}",
            self.paint("1;34", &format!("{:2}", self.steps)),
            self.paint("1", title)
        );
        println!("   {explanation}");
    }

    /// Prints a remark within a step.
    pub fn note(&self, text: &str) {
        println!("   {text}");
    }

    /// Prints `line` and runs it.
    ///
    /// # Errors
    /// Returns an error if the command fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let (status, text) = self.attempt(line)?;
        if status == 0 {
            return Ok(text);
        }
        Err(Error::new(format!("the command above ended with status {status}")))
    }

    /// Prints `line`, runs it, and returns its exit status and its output.
    ///
    /// # Errors
    /// Returns an error if the command cannot be run.
    pub fn attempt(&self, line: &str) -> Result<(i32, String)> {
        // A long command continues in the next line, as a user would type it.
        println!(
            "   {} {}",
            self.paint("36", "$"),
            self.paint("36", &line.replace('\n', "\n     "))
        );
        let (status, text) = self.quietly(line)?;
        self.show(&text);
        Ok((status, text))
    }

    /// Runs `line` without printing it.
    ///
    /// # Errors
    /// Returns an error if the command cannot be run.
    pub fn quietly(&self, line: &str) -> Result<(i32, String)> {
        let mut command = process::clean(Command::new("sh"));
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder())
            .args(["-c", line]);
        let output = process::run(command, &[], LONGEST)?;
        let text = format!("{}{}", output.text(), output.stderr);
        Ok((output.status.code().unwrap_or(-1), text))
    }

    /// Writes a file into the working folder and prints it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn file(&self, name: &str, contents: &str) -> Result<()> {
        self.scratch.write(name, contents)?;
        println!("   {}", self.paint("33", name));
        for line in contents.lines() {
            println!("   {} {line}", self.paint("33", "|"));
        }
        Ok(())
    }

    fn show(&self, text: &str) {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        for line in lines.iter().take(LINES) {
            let mut cut: String = line.chars().take(COLUMNS).collect();
            if cut.len() < line.len() {
                cut.push('…');
            }
            println!("     {}", self.paint("2", &cut));
        }
        if lines.len() > LINES {
            println!(
                "     {}",
                self.paint("2", &format!("… {} more lines", lines.len() - LINES))
            );
        }
    }

    /// Prints a line that changes, for example a countdown. Without a terminal, prints nothing.
    pub fn live(&self, text: &str) {
        // Only changed text is printed, so that recordings of the terminal stay readable.
        if self.live && *self.shown.borrow() != text {
            text.clone_into(&mut self.shown.borrow_mut());
            print!("\r\x1b[K     {text}");
            let _ = std::io::stdout().flush();
        }
    }

    /// Removes the line of [`Stage::live`].
    pub fn live_end(&self) {
        if self.live {
            print!("\r\x1b[K");
        }
    }

    /// Prints what a step promised, and whether it is true.
    pub fn check(&mut self, holds: bool, promise: &str) {
        if holds {
            self.kept += 1;
            println!("   {} {promise}", self.paint("32", "✓"));
        } else {
            self.broken.push(format!("step {}: {promise}", self.steps));
            println!("   {} {}", self.paint("31", "✗"), self.paint("31", promise));
        }
    }

    /// Reports a step that failed with an error.
    pub fn fail(&mut self, error: &Error) {
        self.live_end();
        self.check(false, &error.to_string());
    }

    /// Prints the summary. Returns whether all checks succeeded.
    pub fn end(&self) -> bool {
        println!();
        let took = format!("{:.0} s", self.began.elapsed().as_secs_f64());
        if self.broken.is_empty() {
            let ticks = self.paint("32", &"✓".repeat(self.kept as usize));
            println!(
                "{ticks} {} checks in {} steps passed, in {took}.",
                self.kept, self.steps
            );
        } else {
            println!(
                "{} {} of {} checks failed:",
                self.paint("31", "✗"),
                self.broken.len(),
                self.kept as usize + self.broken.len()
            );
            for promise in &self.broken {
                println!("  {promise}");
            }
            self.scratch.keep();
        }
        self.broken.is_empty()
    }
}
