//! The gateway against nginx before the same upstream: both proxies on one core, the upstream and
//! `wrk` on another.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::{Options, Platform, eventually, has_program};

use crate::report::{Report, median};

const ROUNDS: usize = 5;
const SECONDS: u32 = 8;
const CONNECTIONS: u32 = 64;

/// What one run of `wrk` found.
#[derive(Clone, Copy, Debug)]
struct Figure {
    per_second: f64,
    p99: f64,
    errors: f64,
}

pub(crate) fn measure(report: &mut Report) {
    for program in ["wrk", "nginx", "taskset"] {
        if !has_program(program) {
            report.note(format!(
                "Gateway: not measured, `{program}` is not installed."
            ));
            return;
        }
    }
    // A gateway that sees one core has one thread, as nginx has one worker.
    let launcher = ["taskset", "-c", "0"].map(str::to_owned).to_vec();
    let platform = Platform::start_with(Options {
        launcher,
        ..Options::default()
    });
    let upstream = std::env::current_exe()
        .expect("this program has a path")
        .with_file_name("ondol-bench-upstream");
    let yaml = format!(
        "project: fast\ntest: \"true\"\nservice:\n  run: exec {}\n  health: /\n",
        upstream.display()
    );
    let project = platform.project_of("fast", &[("ondol.yaml", &yaml)]);
    platform.push(&project).ok();
    let outcome = platform.last_run("fast");
    if outcome["outcome"] != "success" {
        report.note(format!(
            "Gateway: not measured, the upstream did not go live: {outcome}"
        ));
        return;
    }
    let replica = platform
        .processes()
        .into_iter()
        .find(|process| {
            process
                .arguments
                .first()
                .is_some_and(|program| program.ends_with("ondol-bench-upstream"))
        })
        .expect("the upstream runs");
    let port = port_of(replica.pid);
    pin(replica.pid, 1);
    pin(platform.gateway_pid(), 0);

    let nginx = Nginx::start(platform.folder(), port);
    let host = format!(
        "fast.localhost:{}",
        platform.gateway().rsplit(':').next().unwrap_or_default()
    );
    let targets = [
        ("Ondol", format!("{}/", platform.gateway()), host.as_str()),
        (
            "default",
            format!("http://127.0.0.1:{}/", nginx.ports[0]),
            "localhost",
        ),
        (
            "tuned",
            format!("http://127.0.0.1:{}/", nginx.ports[1]),
            "localhost",
        ),
        ("upstream", format!("http://127.0.0.1:{port}/"), "localhost"),
    ];
    let mut figures = vec![Vec::new(); targets.len()];
    for round in 0..=ROUNDS {
        for (index, (_, url, host)) in targets.iter().enumerate() {
            let figure = wrk(url, host, if round == 0 { 2 } else { SECONDS });
            // The first round warms everything up.
            if round > 0 {
                figures[index].push(figure);
            }
        }
    }
    let middle =
        |index: usize, part: fn(&Figure) -> f64| median(figures[index].iter().map(part).collect());
    let rate = |index: usize| middle(index, |figure| figure.per_second);
    let p99 = |index: usize| middle(index, |figure| figure.p99) * 1e3;
    let errors: f64 = figures.iter().flatten().map(|figure| figure.errors).sum();
    report.row(
        "gateway, requests/s, against nginx's default `proxy_pass`",
        format!("{:.0} ({:.2} ×)", rate(0), rate(0) / rate(1)),
        format!("{:.0}", rate(1)),
        "≥ 2 ×",
    );
    report.row(
        "gateway, requests/s, against nginx tuned for keep-alive",
        format!("{:.0} ({:.2} ×)", rate(0), rate(0) / rate(2)),
        format!("{:.0}", rate(2)),
        "≥ 0.7 ×",
    );
    report.row(
        "gateway, p99",
        format!("{:.2} ms", p99(0)),
        format!("default {:.2} ms, tuned {:.2} ms", p99(1), p99(2)),
        "≤ nginx",
    );
    report.note(format!(
        "Gateway: `wrk -t1 -c{CONNECTIONS} -d{SECONDS}s`, {ROUNDS} rounds in turn, 128-byte answers. Proxies are pinned to core 0 \
         (nginx: one worker), upstream and wrk share core 1; straight at the upstream wrk sees {:.0} requests/s, p99 {:.2} ms. \
         All keep their access log, as they do by default. {errors:.0} answers were errors.",
        rate(3),
        p99(3)
    ));
}

fn port_of(pid: i32) -> u16 {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&environ)
        .split('\0')
        .find_map(|variable| variable.strip_prefix("PORT=")?.parse().ok())
        .expect("the upstream was given a port")
}

fn pin(pid: i32, core: u32) {
    let mut command = Command::new("taskset");
    command.args(["-acp", &core.to_string(), &pid.to_string()]);
    run(command, None, PATIENCE).ok();
}

fn wrk(url: &str, host: &str, seconds: u32) -> Figure {
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        "1",
        "wrk",
        "-t1",
        &format!("-c{CONNECTIONS}"),
        &format!("-d{seconds}s"),
        "--latency",
        "-H",
    ]);
    command.arg(format!("Host: {host}")).arg(url);
    let output = run(command, None, PATIENCE * 2).ok();
    let word = |line: &str, at: usize| {
        line.split_whitespace()
            .nth(at)
            .unwrap_or_default()
            .to_owned()
    };
    let mut figure = Figure {
        per_second: 0.0,
        p99: f64::NAN,
        errors: 0.0,
    };
    for line in output.stdout.lines().map(str::trim) {
        if line.starts_with("Requests/sec:") {
            figure.per_second = word(line, 1).parse().unwrap_or(0.0);
        } else if line.starts_with("99%") {
            figure.p99 = duration(&word(line, 1));
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            figure.errors += count.trim().parse().unwrap_or(0.0);
        } else if line.starts_with("Socket errors:") {
            figure.errors += line
                .split([' ', ','])
                .filter_map(|part| part.parse::<f64>().ok())
                .sum::<f64>();
        }
    }
    figure
}

fn duration(text: &str) -> f64 {
    for (unit, seconds) in [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)] {
        if let Some(number) = text
            .strip_suffix(unit)
            .and_then(|number| number.parse::<f64>().ok())
        {
            return number * seconds;
        }
    }
    f64::NAN
}

struct Nginx {
    master: std::process::Child,
    ports: [u16; 2],
}

impl Nginx {
    fn start(folder: &Path, upstream: u16) -> Self {
        let folder = folder.join("nginx");
        fs::create_dir_all(&folder).expect("a folder for nginx");
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("an address").port()
        };
        let ports = [free(), free()];
        let dir = folder.display();
        // What Debian's nginx.conf sets, with one worker on the gateway's core.
        let text = format!(
            "daemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nworker_processes 1;\nworker_cpu_affinity 01;\nuser root;\n\
             events {{ worker_connections 768; }}\n\
             http {{\n  sendfile on;\n  tcp_nopush on;\n  types_hash_max_size 2048;\n  gzip on;\n  access_log {dir}/access.log;\n\
             \x20 client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n\
             \x20 uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
             \x20 server {{\n    listen 127.0.0.1:{};\n    location / {{ proxy_pass http://127.0.0.1:{upstream}; }}\n  }}\n\
             \x20 upstream kept {{ server 127.0.0.1:{upstream}; keepalive 64; }}\n\
             \x20 server {{\n    listen 127.0.0.1:{};\n    keepalive_requests 1000000;\n    location / {{\n      proxy_pass http://kept;\n\
             \x20     proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n",
            ports[0], ports[1]
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).expect("the configuration of nginx");
        let master = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        eventually("nginx answers", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", ports[0])).is_ok()
        });
        Self { master, ports }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        ondol_testing::process::send(self.master.id() as i32, rustix::process::Signal::TERM);
        let _ = self.master.wait();
    }
}
