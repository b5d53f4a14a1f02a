//! Communicates with the scripts in `python/`. The processes keep running, because a start of Python with botocore
//! takes 0.3 s.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

use crate::{Context, Error, Result, Tools, process};

/// A running helper process. It handles one request at a time.
pub(crate) struct Helper(Mutex<Pipes>);

struct Pipes {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts the helper process.
    pub(crate) fn start(tools: &Tools) -> Result<Self> {
        Self::start_script(tools.command("python3"), "helper.py")
    }

    /// Starts another script of the folder `python` with the given Python.
    pub(crate) fn start_script(mut command: Command, script: &str) -> Result<Self> {
        let folder = Path::new(env!("VALET_ROOT")).join("tests/harness/python");
        command
            // -I: ignore settings and modules of the user. -B: write no bytecode files.
            .args(["-I", "-B"])
            .arg(folder.join("conversation.py"))
            .arg(folder.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = process::spawn(command).context("cannot start python3")?;
        let input = child.stdin.take().context("python3 has no standard input")?;
        let output = BufReader::new(child.stdout.take().context("python3 has no standard output")?);
        Ok(Self(Mutex::new(Pipes { child, input, output })))
    }

    /// Sends a request with a body; returns the response with its body.
    pub(crate) fn ask(&self, mut request: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        let mut pipes = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        request["body_length"] = body.len().into();
        let mut talk = || -> std::io::Result<(String, Vec<u8>)> {
            writeln!(pipes.input, "{request}")?;
            pipes.input.write_all(body)?;
            pipes.input.flush()?;
            let mut line = String::new();
            pipes.output.read_line(&mut line)?;
            let length = serde_json::from_str::<Value>(&line)?["body_length"]
                .as_u64()
                .unwrap_or(0);
            let mut body = Vec::new();
            pipes.output.by_ref().take(length).read_to_end(&mut body)?;
            Ok((line, body))
        };
        let (line, body) = talk().context("the Python helper has ended; what it said stands above")?;
        let answer: Value = serde_json::from_str(&line).context("the Python helper did not answer in JSON")?;
        match answer["error"].as_str() {
            Some(error) => Err(Error::new(error)),
            None => Ok((answer, body)),
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}
