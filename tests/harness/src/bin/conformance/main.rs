//! Tests what stores enforce. Each test sends conforming and violating requests with real credentials to real
//! servers.
//!
//! ```text
//! conformance [--check] PAGE
//! ```
//! The program starts versitygw, MinIO, Azurite, fake-gcs-server and, if `VALET_GARAGE` is set, Garage. It also
//! starts versitygw behind proxies that behave like other stores in one respect. `valet sign` signs the credentials,
//! and curl uses them. The program prints the tables and writes them to PAGE; with --check it only compares them.
//! Without Garage, its table in PAGE stays unchanged. The exit status is 1 if a store behaves differently than
//! documented, or if PAGE differs. The last line of the output contains the results.

mod attacks;
mod azure;
mod cells;
mod google;
mod key;
mod page;
mod parts;
mod prefix;
mod store;

use std::{env, fs, path::PathBuf, process::ExitCode, thread, time::Instant};

use cells::{Outcome, ROWS};
use store::{Column, Store};
use valet_harness::{Context, Error, Oddity, Result, Software, Tools, operator::find_valet, program};

/// The table of one server: the result for each row and column, if there is one.
pub struct Table {
    name: &'static str,
    rows: Vec<(&'static str, [Option<Outcome>; 3])>,
    /// The results for multipart uploads.
    parts: Vec<(&'static str, Outcome)>,
}

fn main() -> ExitCode {
    program::run("conformance", conformance)
}

fn conformance() -> Result<ExitCode> {
    let mut args: Vec<_> = env::args().skip(1).collect();
    let check = args.first().is_some_and(|a| a == "--check");
    if check {
        args.remove(0);
    }
    let [page] = args.as_slice() else {
        return Err(Error::new("usage: conformance [--check] PAGE"));
    };
    let page = PathBuf::from(page);
    let began = Instant::now();
    let (tools, valet) = (Tools::locate()?, find_valet()?);
    let of = |(software, oddity)| Store::start(&tools, software, oddity, &valet).and_then(|store| table(&store));
    let mut wanted = vec![
        (Software::Versitygw, None),
        (Software::Minio, None),
        (Software::Versitygw, Some(Oddity::NoConditions)),
        (Software::Versitygw, Some(Oddity::ObjectLock)),
    ];
    // Garage is last. If it is not tested, the page keeps its table.
    wanted.extend(env::var_os("VALET_GARAGE").map(|_| (Software::Garage, None)));
    let tables = thread::scope(|scope| {
        let azure = scope.spawn(|| azure::rows(&valet));
        let google = scope.spawn(|| google::rows(&valet));
        let tables: Vec<_> = wanted.iter().map(|store| scope.spawn(|| of(*store))).collect();
        let done = tables.into_iter().map(|table| {
            let table = table.join().map_err(|_| Error::new("the cells of a store panicked"));
            table.and_then(|table| table)
        });
        let tables = done.collect::<Result<Vec<_>>>();
        let azure = azure.join().map_err(|_| Error::new("the cells of Azurite panicked"))?;
        let google = google.join().map_err(|_| Error::new("the cells of Google panicked"))?;
        Ok::<_, Error>((tables?, azure?, google?))
    })?;
    let (tables, azure, google) = tables;

    let before = fs::read_to_string(&page).unwrap_or_default();
    let others = azure::page(&azure) + &google::page(&google);
    let text = page::page(&tables, &before) + &others;
    print!("{}{others}", page::tables(&tables));
    let cells = tables
        .iter()
        .flat_map(|t| &t.rows)
        .flat_map(|(_, cells)| cells.iter().flatten())
        .chain(tables.iter().flat_map(|t| t.parts.iter().map(|(_, cell)| cell)))
        .chain(azure.iter().flat_map(|(_, cells)| cells.iter().flatten()))
        .chain(google.iter().flat_map(|(_, cells)| cells.iter().flatten()));
    let (right, all) = cells.fold((0, 0), |(right, all), cell| {
        (right + usize::from(cell.as_documented), all + 1)
    });
    let same = before == text;
    if !same && check {
        println!(
            "\n{} differs: run make conformance and read the difference",
            page.display()
        );
    } else if !same {
        fs::write(&page, &text).context(format_args!("cannot write {}", page.display()))?;
        println!("\n{} has changed: read the difference", page.display());
    }
    let seconds = began.elapsed().as_secs();
    println!("\n{all} cells, {right} as documented, in {seconds} s");
    let good = right == all && (same || !check);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(store: &Store<'_>) -> Result<Table> {
    let mut rows = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let mut cells = [None, None, None];
        for (column, cell) in Column::ALL.into_iter().zip(&mut cells) {
            let object = format!("tenants/web/{n}-{column:?} \u{fc}+(1)/x.bin");
            *cell = (row.cells)(store, column, &object)
                .transpose()
                .map_err(|e| Error::new(format!("{} of {column:?} on {}: {e}", row.name, store.name())))?;
        }
        rows.push((row.name, cells));
    }
    let mut parts = Vec::new();
    if store.wants_checksums() {
        parts.push(("an upload without a checksum", parts::without_checksum(store)?));
    }
    let tried = if store.wants_checksums() { &[] } else { &parts::ROWS[..] };
    for (n, row) in tried.iter().enumerate() {
        let object = format!("tenants/web/{n}-parts \u{fc}+(1)/x.bin");
        let Some(cell) = (row.cell)(store, &object) else {
            continue;
        };
        let cell =
            cell.map_err(|e| Error::new(format!("multipart upload, {} on {}: {e}", row.name, store.name())))?;
        parts.push((row.name, cell));
    }
    Ok(Table {
        name: store.name(),
        rows,
        parts,
    })
}
