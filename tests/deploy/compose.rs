//! The files for Compose, held against its schema, and every variable, path and port in them against
//! what they name.
//!
//! The schema is that of the Compose Specification, `schema/compose-spec.json`, unchanged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use adit::auth::settings::Auth;
use adit::config::{Config, Sources};
use adit::files::FileContent;
use boon::{Compiler, Schemas};
use serde_json::Value;

use crate::support::{read, repository};

const GATEWAY: &str = "deploy/docker/compose.yaml";
const DEMO: &str = "deploy/docker/compose.demo.yaml";
const DOCKERFILE: &str = "deploy/docker/Dockerfile";
/// The folder of both files, from which their paths go.
const FOLDER: &str = "deploy/docker";

/// What adit may take to end: its tunnels, then its outbox (`agent.rs`).
const LONGEST_STOP: Duration = Duration::from_secs(6 + 5);

/// What whoever starts the gateway's file has to set, and for what it is shown to be enough.
const GIVEN: [(&str, &str); 4] = [
    ("ADIT_DEVICE_ID", "gateway-7"),
    ("ADIT_CLOUD_URL", "https://tenant.example.com"),
    ("ADIT_AUTH_TENANT", "t12345"),
    ("ADIT_AUTH_USERNAME", "device_gateway-7"),
];

fn compose(path: &str) -> Value {
    serde_yaml_ng::from_str(&interpolate(&read(path)))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Puts in what stands for `${NAME:?why}` and `${NAME:-default}`, as Compose does.
fn interpolate(text: &str) -> String {
    let mut parts = text.split("${");
    let mut result = parts.next().unwrap().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').expect("a closing brace");
        let value = if let Some((_, default)) = variable.split_once(":-") {
            default
        } else {
            let (name, _why) = variable.split_once(":?").expect("a default or a reason");
            let given = GIVEN.iter().find(|(given, _)| *given == name);
            given.unwrap_or_else(|| panic!("{name}")).1
        };
        result.push_str(value);
        result.push_str(rest);
    }
    result
}

fn service<'a>(file: &'a Value, name: &str) -> &'a Value {
    let service = &file["services"][name];
    assert!(service.is_object(), "{name} is no service");
    service
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    let variables = service["environment"].as_object().unwrap().iter();
    variables
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// Reads the environment of a container as adit in it does.
fn configuration(service: &Value, secrets: &[&str]) -> Config {
    let environment = environment(service)
        .into_iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read = |path: &Path| match path.to_str() {
        Some(path) if secrets.contains(&path) => Ok(FileContent {
            bytes: b"device-password\n".to_vec(),
            world_readable: false,
        }),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let sources = Sources {
        file: None,
        settings: Vec::new(),
        environment: environment.collect(),
        host_name: Some("3f2a9c".to_owned()),
        now: SystemTime::now(),
        read: &read,
    };
    Config::load(&sources).unwrap_or_else(|faults| panic!("{faults}"))
}

fn user(config: &Config) -> &str {
    match &config.auth {
        Auth::Password { user, .. } => user,
        other => panic!("{other:?}"),
    }
}

#[test]
fn follows_the_schema_of_compose() {
    let schema: Value = serde_json::from_str(&read("tests/deploy/compose-spec.json")).unwrap();
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.add_resource("compose-spec.json", schema).unwrap();
    let schema = compiler.compile("compose-spec.json", &mut schemas).unwrap();
    for path in [GATEWAY, DEMO] {
        if let Err(error) = schemas.validate(&compose(path), schema) {
            panic!("{path}: {error:#}");
        }
    }
    let misspelt = read(DEMO).replace("read_only:", "readonly:");
    let misspelt: Value = serde_yaml_ng::from_str(&misspelt).unwrap();
    assert!(schemas.validate(&misspelt, schema).is_err(), "checks keys");
}

#[test]
fn asks_the_running_adit_whether_it_is_healthy() {
    let file = compose(GATEWAY);
    let check = &service(&file, "adit")["healthcheck"];
    assert_eq!(texts(&check["test"]), ["CMD", "/usr/bin/adit", "status"]);
    let image = read("deploy/docker/Dockerfile");
    assert!(image.contains("CMD [\"/usr/bin/adit\", \"status\"]"));
}

#[test]
fn gives_adit_all_it_needs_on_a_gateway() {
    let file = compose(GATEWAY);
    let adit = service(&file, "adit");
    let [secret] = texts(&adit["secrets"])[..] else {
        panic!("one secret")
    };
    assert!(file["secrets"][secret]["file"].is_string());
    let config = configuration(adit, &[&format!("/run/secrets/{secret}")]);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.device.id, "gateway-7");
    assert_eq!(user(&config), "t12345/device_gateway-7");
    assert_eq!(adit["network_mode"], "host");
    let [volume] = texts(&adit["volumes"])[..] else {
        panic!("one volume")
    };
    let (name, _) = volume.split_once(':').unwrap();
    assert!(file["volumes"].as_object().unwrap().contains_key(name));
    // What the image can be written to is what is mounted.
    let mut mounted = [volume.split_once(':').unwrap().1, tmpfs(adit)];
    mounted.sort_unstable();
    let dockerfile = read(DOCKERFILE);
    let volumes = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("VOLUME "))
        .unwrap();
    let mut declared: Vec<String> = serde_json::from_str(volumes).unwrap();
    declared.sort_unstable();
    assert_eq!(mounted.to_vec(), declared);
    let user = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("USER "))
        .unwrap();
    let (uid, gid) = user.split_once(':').unwrap();
    let options = texts(&adit["tmpfs"])[0];
    assert!(options.ends_with(&format!(":mode=0700,uid={uid},gid={gid}")));
    assert!(read(GATEWAY).contains(&format!("install -m 0400 -o {uid} ")));
}

fn tmpfs(service: &Value) -> &str {
    let [mount] = texts(&service["tmpfs"])[..] else {
        panic!("one tmpfs")
    };
    mount.split_once(':').unwrap().0
}

#[test]
fn gives_adit_no_right_and_enough_time_to_stop() {
    for path in [GATEWAY, DEMO] {
        let file = compose(path);
        let adit = service(&file, "adit");
        assert_eq!(adit["read_only"], true, "{path}");
        assert_eq!(texts(&adit["cap_drop"]), ["ALL"], "{path}");
        assert_eq!(texts(&adit["security_opt"]), ["no-new-privileges:true"]);
        assert_eq!(adit["restart"], "unless-stopped", "{path}");
        let grace = adit["stop_grace_period"].as_str().unwrap();
        let grace = humantime::parse_duration(grace).unwrap();
        assert!(grace > LONGEST_STOP, "{path}: {grace:?}");
    }
}

#[test]
fn names_only_files_and_stages_that_there_are() {
    for path in [GATEWAY, DEMO] {
        let file = compose(path);
        for (name, service) in file["services"].as_object().unwrap() {
            for volume in texts(&service["volumes"]) {
                let (source, _) = volume.split_once(':').unwrap();
                let is_path = source.starts_with('.');
                let exists = repository(FOLDER).join(source).exists();
                assert!(!is_path || exists, "{path}: {name}: {source}");
            }
            let Some(build) = service["build"].as_object() else {
                assert!(service["image"].is_string(), "{path}: {name}");
                continue;
            };
            let context = Path::new(FOLDER).join(build["context"].as_str().unwrap());
            let dockerfile = build.get("dockerfile").map_or("Dockerfile", text);
            let dockerfile = context.join(dockerfile);
            let dockerfile = read(dockerfile.to_str().unwrap());
            if let Some(target) = build.get("target").map(text) {
                let stage = format!(" AS {target}\n");
                assert!(dockerfile.contains(&stage), "{path}: {name}: {target}");
            }
            if let Some(entry) = texts(&service["entrypoint"]).first() {
                let program = Path::new(entry).file_name().unwrap();
                assert!(
                    repository("").join(&context).join(program).exists(),
                    "{entry}"
                );
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn connects_the_parts_of_the_demo_with_each_other() {
    let file = compose(DEMO);
    let [adit, platform, machine, mosquitto] =
        ["adit", "platform", "machine", "mosquitto"].map(|name| service(&file, name));
    let variables = environment(platform);
    let source = read("tests/cloud/src/main.rs");
    for name in variables.keys() {
        let known = source.contains(&format!("env = \"{name}\""));
        assert!(known, "{name} means nothing to the simulated platform");
    }
    let variable = |name: &str| variables[name].as_str();
    let port = |address: &str| -> u16 { address.rsplit_once(':').unwrap().1.parse().unwrap() };

    let config = configuration(adit, &[]);
    assert_eq!(config.device.id, variable("CLOUD_DEVICE"));
    let endpoint = &config.cloud.endpoint;
    let listen = port(variable("CLOUD_LISTEN"));
    let reached = (endpoint.host.as_str(), endpoint.port, endpoint.tls);
    assert_eq!(reached, ("platform", listen, false));
    let broker = format!(
        "{}:{}",
        config.mqtt.endpoint.server.host, config.mqtt.endpoint.server.port
    );
    assert_eq!(broker, variable("CLOUD_BROKER"));
    assert_eq!(broker.split(':').next(), Some("mosquitto"));
    let listener = format!("\nlistener {}\n", port(&broker));
    assert!(read("deploy/docker/demo/mosquitto.conf").contains(&listener));
    // The platform's own rule for the user of a device.
    let options = simulated_cloud::Options::new(variable("CLOUD_DEVICE"), 0);
    let login = options.device_login;
    assert_eq!(user(&config), format!("{}/{}", login.tenant, login.user));
    let password = &environment(adit)["ADIT_AUTH_PASSWORD"];
    assert_eq!(password, variable("CLOUD_DEVICE_PASSWORD"));

    let target = format!("machine:{}", port(variable("CLOUD_TARGET")));
    assert_eq!(target, variable("CLOUD_TARGET"));
    let expose = format!("\nEXPOSE {}\n", port(&target));
    assert!(read("deploy/docker/demo/Dockerfile").contains(&expose));
    let forward = port(variable("CLOUD_FORWARD")).to_string();
    assert_eq!(
        texts(&platform["ports"]),
        [format!("127.0.0.1:{forward}:{forward}")]
    );
    let guide = texts(&service(&file, "guide")["entrypoint"]);
    assert_eq!(guide, ["/usr/local/bin/guide", "platform", &forward]);

    // Nothing but adit has the machine on a network of its own.
    assert_eq!(texts(&machine["networks"]), ["lan"]);
    assert_eq!(texts(&adit["networks"]), ["cloud", "lan"]);
    for other in [platform, mosquitto] {
        assert_eq!(texts(&other["networks"]), ["cloud"]);
    }
    assert_eq!(file["networks"]["lan"]["internal"], true);
}
