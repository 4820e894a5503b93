//! The Debian package, and what else a release puts together from files of this repository.

use std::path::Path;
use std::process::Command;

use crate::support::{Directory, read, replace, run_script};

#[test]
fn the_debian_package_is_installed_upgraded_removed_and_purged_without_a_trace() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
    run_script(
        "package",
        &[env!("CARGO_BIN_EXE_adit").as_ref(), directory.as_os_str()],
    );
}

#[test]
fn an_upgrade_of_any_package_leaves_what_was_switched_off_as_it_is() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scripts");
    run_script("scripts", &[directory.as_os_str()]);
}

#[test]
fn every_alert_rings_for_the_gateway_that_is_ill_and_for_no_other() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alerts");
    run_script("alerts", &[directory.as_os_str()]);
}

#[test]
fn every_way_to_install_ends_in_the_same_places() {
    let unit = read("deploy/systemd/adit.service");
    assert!(unit.contains("\nExecStart=/usr/bin/adit run\n"), "{unit}");
    assert!(unit.contains("\nUser=adit\n"), "{unit}");
    assert!(read("deploy/systemd/adit.conf").contains("\nu adit - "));
    let readme = read("README.md");
    for line in [
        "sudo install -m 755 target/release/adit /usr/bin/",
        "sudo install -m 644 deploy/systemd/adit.service /etc/systemd/system/",
        "deploy/systemd/adit.conf /etc/sysusers.d/adit.conf",
        "deploy/adit.toml /etc/adit/adit.toml",
    ] {
        assert!(readme.contains(line), "{line}");
    }
    assert!(!readme.contains("/usr/local/bin"));
    for script in ["deploy/openwrt/files/adit.init", "deploy/docker/Dockerfile"] {
        assert!(read(script).contains("/usr/bin/adit"), "{script}");
    }
}

#[test]
fn what_runs_on_kubernetes_fits_together() {
    use serde_json::Value;
    use serde_yaml_ng::Deserializer;

    for (folder, file, kind) in [
        ("gateway", "deployment.yaml", "Deployment"),
        ("every-node", "daemonset.yaml", "DaemonSet"),
    ] {
        let yaml = |name: &str| -> Value {
            let text = read(&format!("deploy/kubernetes/{folder}/{name}"));
            serde::Deserialize::deserialize(Deserializer::from_str(&text)).unwrap()
        };
        let kustomization = yaml("kustomization.yaml");
        let resources = kustomization["resources"].as_array().unwrap();
        for resource in resources {
            let object = yaml(resource.as_str().unwrap());
            assert_eq!(object["metadata"]["name"], "adit");
        }
        assert!(resources.contains(&Value::from(file)), "{folder}");

        let object = yaml(file);
        assert_eq!(object["kind"], kind);
        let spec = &object["spec"];
        let labels = &spec["template"]["metadata"]["labels"];
        assert_eq!(spec["selector"]["matchLabels"], *labels);
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        let container = &pod["containers"][0];
        assert_eq!(container["image"], kustomization["images"][0]["name"]);
        let names = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            let mut names: Vec<_> = list.map(|item| item["name"].to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
        let map = &pod["volumes"][0]["configMap"]["name"];
        assert_eq!(*map, kustomization["configMapGenerator"][0]["name"]);

        // The file as the pod has it, with the password where the pod has that.
        let directory = Directory::new();
        let secret = directory.write("password", "secret");
        let secret = secret.to_str().unwrap();
        let text = read(&format!("deploy/kubernetes/{folder}/adit.toml"));
        let config = replace(&text, "/run/secrets/adit/password", secret);
        let config = directory.write("adit.toml", &config);
        let output = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args([
                "check",
                "--json",
                "--no-login",
                "--set",
                "cloud.url=http://127.0.0.1:1",
            ])
            .args([
                "--set",
                "mqtt.url=mqtt://127.0.0.1:1",
                "--set",
                "cloud.proxy=none",
            ])
            .env("ADIT_DEVICE_ID", "node-7")
            .arg("--config")
            .arg(config)
            .output()
            .unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let hop = &result["hops"][0];
        assert_eq!(
            (&hop["name"], &hop["outcome"]),
            (&"configuration".into(), &"passed".into()),
            "{result}"
        );
    }
}
