//! The commands of the user's documents, run as they stand, against the real program on free ports.

use std::process::{Command, Output};

use serde_json::json;

use crate::edge::TestEdge;
use crate::http::chat;
use crate::provider::Provider;
use crate::servers::free_port;

/// What cannot be run without Docker, systemd, root or a build of its own.
const NOT_HERE: &[&str] = &[
    "docker ",
    "systemctl ",
    "journalctl ",
    "sudo ",
    "make ",
    "llm-proxy service status",
];

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

fn shell(folder: &std::path::Path, script: &str, variables: &[(&str, &str)]) -> Output {
    let programs = std::path::Path::new(crate::edge::PROGRAM)
        .parent()
        .expect("a folder")
        .display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    Command::new("bash")
        .args(["-c", script])
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .expect("bash runs")
}

#[test]
fn every_block_of_the_guide_works_in_its_order() {
    let provider = Provider::start();
    let text = document("guide.md");
    let blocks: Vec<&str> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 9, "{} blocks", blocks.len());
    let (proxy, sidecar) = (free_port().to_string(), free_port().to_string());
    let mut script = String::from("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n");
    for block in &blocks {
        script.push_str(block);
    }
    // the ports of the text are somebody else's on a machine that runs tests
    let script = script
        .replace(
            "llm-proxy setup ",
            &format!("llm-proxy setup --addr 127.0.0.1:{proxy} --management-addr 127.0.0.1:{sidecar} "),
        )
        .replace(":8080", &format!(":{proxy}"))
        .replace(":8081", &format!(":{sidecar}"));
    let folder = tempfile::tempdir().expect("a folder");
    let output = shell(
        folder.path(),
        &script,
        &[
            ("OPENAI_API_KEY", "sk-key-of-the-guide"),
            ("OPENAI_API_URL", &provider.url()),
            ("PROXY_URL", &format!("http://127.0.0.1:{proxy}")),
        ],
    );
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    for seen in [
        "hello from the provider",
        "data: [DONE]",
        "ANTHROPIC_BASE_URL",
        "llm_proxy_requests_total",
        "token_inactive",
    ] {
        assert!(said.contains(seen), "no `{seen}`:\n{said}");
    }
    assert_eq!(provider.last().model(), "gpt-4o-mini");
}

/// The commands in the second column of every table.
fn commands(text: &str) -> Vec<String> {
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| before"));
    rows.flat_map(|row| {
        let cells: Vec<String> = row
            .replace("\\|", "\u{1}")
            .split('|')
            .map(|cell| cell.replace('\u{1}', "|"))
            .collect();
        let codes = cells.get(2).cloned().unwrap_or_default();
        codes
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_command_of_the_troubleshooting_tables_works() {
    let provider = Provider::start();
    let edge = TestEdge::plan(&provider)
        .with(json!({"cache": {"enabled": true}}))
        .start();
    let user = edge.token(json!({}));
    user.post("/v1/chat/completions", chat("gpt-a")).expect(200);
    let commands = commands(&document("troubleshooting.md"));
    assert!(commands.len() > 60, "{} commands", commands.len());
    let config = edge.config_path();
    let mut wrong = Vec::new();
    let mut ran = 0;
    for command in commands {
        if NOT_HERE.iter().any(|start| command.starts_with(start)) {
            continue;
        }
        // what ends a project or a secret gets one of its own
        let spare = edge.token(json!({}));
        let ends = command.contains("--active false") || command.contains("token rotate");
        let (id, project) = if ends {
            (&spare.id, &spare.project_id)
        } else {
            (&user.id, &user.project_id)
        };
        let script = command
            .replace("localhost:8080", &edge.proxy.to_string())
            .replace("localhost:8081", &edge.management.to_string())
            .replace("backup.d", &format!("backup-{ran}.d"));
        let output = shell(
            edge.folder(),
            &script,
            &[
                ("LLM_PROXY_CONFIG", config.to_str().expect("a path")),
                ("MANAGEMENT_TOKEN", crate::edge::MANAGEMENT_TOKEN),
                ("MANAGEMENT_API_BASE_URL", &format!("http://{}", edge.management)),
                ("TOKEN", &user.secret),
                ("TOKEN_ID", id),
                ("PROJECT_ID", project),
            ],
        );
        ran += 1;
        // `doctor` may have findings; it must not fail to look
        let good = output.status.success()
            || command.starts_with("llm-proxy doctor") && output.status.code() == Some(1);
        if !good {
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            wrong.push(format!("{command}: {:?}\n{said}", output.status.code()));
        }
    }
    assert!(ran > 50, "{ran} were run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
