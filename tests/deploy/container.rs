//! The image of `deploy/docker/Dockerfile` as a running container, set up by variables alone; and those of
//! a release, which `ADIT_TEST_IMAGES` has the folder of.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use simulated_cloud::{Cloud, Options};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::support::{
    Directory, EXIT_LIMIT, LIMIT, Lan, Port, Process, announced, command, mosquitto, open_to, rows,
    run_script, users,
};

/// The user of the image.
const USER: u32 = 65532;
pub(crate) const DEVICE: &str = "gateway-7";
pub(crate) const PASSWORD: &str = "device-password";

/// A container that is not running; dropping it removes it.
struct Container {
    directory: PathBuf,
    name: String,
}

/// What stands around a container: a broker, the platform, and the password in a file.
pub(crate) struct Surroundings {
    pub(crate) cloud: Cloud,
    pub(crate) port: Port,
    secret: PathBuf,
    _broker: Process,
    _directory: Directory,
}

/// Makes a container of an image of a release, in a storage that goes with `directory`.
fn released(directory: &Directory, image: &Path) -> Container {
    let mut container = Container {
        directory: directory.path("images"),
        name: String::new(),
    };
    let archive = format!("docker-archive:{}", image.display());
    container.name = container.ask(&["from", &archive]);
    container
}

/// Makes a container of the image; `None` where none can be built, which is said.
async fn container() -> Option<Container> {
    static BUILT: OnceCell<bool> = OnceCell::const_new();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
    if !*BUILT
        .get_or_init(async || run_script("image", &[directory.as_os_str()]))
        .await
    {
        return None;
    }
    let mut container = Container {
        directory,
        name: String::new(),
    };
    container.name = container.ask(&["from", "--pull-never", "localhost/adit"]);
    Some(container)
}

impl Container {
    fn buildah(&self) -> Command {
        let mut buildah = command("buildah");
        buildah.arg("--root").arg(self.directory.join("storage"));
        buildah.arg("--runroot").arg(self.directory.join("run"));
        buildah
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.buildah().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Returns the part `config` of the image.
    fn image_config(&self) -> Value {
        let inspected: Value = serde_json::from_str(&self.ask(&["inspect", &self.name])).unwrap();
        inspected["OCIv1"]["config"].clone()
    }

    /// Returns the part `config` of the image in Docker's form, which has the health check.
    fn docker_config(&self) -> Value {
        let inspected: Value = serde_json::from_str(&self.ask(&["inspect", &self.name])).unwrap();
        inspected["Docker"]["config"].clone()
    }

    /// Returns where the container's root file system can be seen.
    fn root(&self) -> PathBuf {
        self.ask(&["mount", &self.name]).into()
    }

    /// Returns entry point and command of the image.
    fn program(&self) -> Vec<String> {
        let config = self.image_config();
        let words = [&config["Entrypoint"], &config["Cmd"]].map(|words| words.as_array().unwrap());
        let words = words.into_iter().flatten();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.buildah().args(["rm", &self.name]).output());
    }
}

impl Surroundings {
    pub(crate) async fn new() -> Self {
        let directory = Directory::new();
        let port = Port::reserve();
        let mut options = Options::new(DEVICE, port.number);
        options.device_login.password = PASSWORD.to_owned();
        options.broker.login = Some(("platform".to_owned(), "platform-password".to_owned()));
        let login = &options.device_login;
        let user = format!("{}/{}", login.tenant, login.user);
        let users = users(
            &directory,
            &[("platform", "platform-password"), (&user, PASSWORD)],
        );
        let broker = mosquitto(
            &directory,
            &format!(
                "listener {} 127.0.0.1\nuser root\nlog_dest stderr\nlog_type all\npassword_file {}\n",
                port.number,
                users.display()
            ),
        )
        .await;
        let cloud = Cloud::start(options).await.unwrap();
        let secret = directory.write("password", &format!("{PASSWORD}\n"));
        std::os::unix::fs::chown(&secret, Some(USER), Some(USER)).unwrap();
        Self {
            cloud,
            port,
            secret,
            _broker: broker,
            _directory: directory,
        }
    }

    /// Returns all that the container is told. The broker goes by its name, so that names count.
    fn environment(&self) -> Vec<String> {
        let login = &self.cloud.options().device_login;
        vec![
            format!("ADIT_DEVICE_ID={DEVICE}"),
            format!("ADIT_CLOUD_URL={}", self.cloud.url()),
            format!("ADIT_MQTT_URL=mqtt://localhost:{}", self.port.number),
            format!("ADIT_AUTH_TENANT={}", login.tenant),
            format!("ADIT_AUTH_USERNAME={}", login.user),
            "ADIT_AUTH_PASSWORD_FILE=/run/secrets/adit_password".to_owned(),
        ]
    }
}

/// Waits until a process below `ancestor` runs the program `name`, and returns its id.
pub(crate) async fn descendant(ancestor: u32, name: &str) -> u32 {
    let found = async {
        loop {
            let below = processes()
                .into_iter()
                .find(|process| process.name == name && is_below(process.id, ancestor));
            match below {
                Some(process) => return process.id,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(LIMIT, found).await.expect("the program starts")
}

struct Listed {
    id: u32,
    parent: u32,
    name: String,
}

fn processes() -> Vec<Listed> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let listed = entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        Some(Listed {
            id,
            parent: field("PPid:")?.parse().ok()?,
            name: field("Name:")?,
        })
    });
    listed.collect()
}

fn is_below(id: u32, ancestor: u32) -> bool {
    let all = processes();
    let parent = |id: u32| all.iter().find(|process| process.id == id)?.parent.into();
    std::iter::successors(Some(id), |&id| parent(id)).any(|id| id == ancestor)
}

/// Starts a command so that its id is known: `sh` tells it, and becomes the command.
async fn start(name: &str, command: &mut Command) -> (Process, u32) {
    let mut sh = Command::new("sh");
    sh.args(["-c", "echo \"process $$\" >&2; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        sh.env(name, value.unwrap_or_default());
    }
    let process = Process::start(name, &mut sh);
    let line = process.find_line(1, "process ").await.unwrap();
    let id = line.strip_prefix("process ").unwrap().parse().unwrap();
    (process, id)
}

fn signal(id: u32) {
    let status = Command::new("kill")
        .args(["-TERM", &id.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Runs a program of a container as a user of the image does, and opens tunnels through it. `name` is what
/// the system calls the program.
async fn carries_tunnels(container: &Container, program: &[String], name: &str) {
    let surroundings = Surroundings::new().await;
    let mut run = container.buildah();
    run.args(["run", "--isolation", "chroot"]);
    for variable in surroundings.environment() {
        run.args(["--env", &variable]);
    }
    let secret = surroundings.secret.display();
    run.args([
        "--volume",
        &format!("{secret}:/run/secrets/adit_password:ro"),
    ]);
    run.arg(&container.name).arg("--").args(program);
    let (mut adit, id) = start("buildah run", &mut run).await;
    announced(&surroundings.cloud).await;
    let id = descendant(id, name).await;
    let owner = std::fs::metadata(format!("/proc/{id}")).unwrap().uid();
    assert_eq!(owner, USER);
    let lan = Lan::echo().await;
    for host in ["127.0.0.1", "localhost"] {
        let (_, mut far_end) = open_to(&surroundings.cloud, DEVICE, host, lan.port).await;
        far_end.echo("hello").await;
    }
    signal(id);
    assert!(adit.wait_for_exit(EXIT_LIMIT).await.success());
    assert_eq!(surroundings.cloud.errors(), []);
}

#[tokio::test]
async fn carries_a_tunnel_as_a_container_that_is_set_up_by_variables() {
    let Some(container) = container().await else {
        return;
    };
    carries_tunnels(&container, &container.program(), "adit").await;
}

/// Only with the images of a release: `just images`.
#[tokio::test]
async fn carries_a_tunnel_in_the_image_of_each_architecture() {
    let Some(folder) = std::env::var_os("ADIT_TEST_IMAGES") else {
        return;
    };
    let mut carried = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let file = entry.file_name().into_string().unwrap();
        // The index over all of them is another form.
        let Some((_, architecture)) = file.split_once("-image-") else {
            continue;
        };
        let directory = Directory::new();
        let container = released(&directory, &path);
        let emulator = match architecture.strip_suffix(".tar").unwrap() {
            "arm64" => Some("qemu-aarch64-static"),
            "armhf" => Some("qemu-arm-static"),
            _ => None,
        };
        let mut program = container.program();
        assert_eq!(program, ["/usr/bin/adit", "run"]);
        let health = &container.docker_config()["Healthcheck"]["Test"];
        assert_eq!(
            *health,
            serde_json::json!(["CMD", "/usr/bin/adit", "status"])
        );
        let mut name = "adit";
        if let Some(emulator) = emulator {
            name = "emulator";
            let emulator = Path::new("/usr/bin").join(emulator);
            container.ask(&[
                "copy",
                &container.name,
                emulator.to_str().unwrap(),
                "/emulator",
            ]);
            program.insert(0, "/emulator".to_owned());
        }
        carries_tunnels(&container, &program, name).await;
        carried += 1;
    }
    assert!(carried > 0, "no image");
}

/// As an engine does it with `read_only`, `cap_drop` and `no-new-privileges`: adit is process 1, and
/// finds nothing but its own root, which nobody can write to.
const READ_ONLY: &str = r#"
set -eu
root=$1 secret=$2; shift 2
mkdir -p "$root/proc" "$root/run/secrets"
: > "$root/run/secrets/adit_password"
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$secret" "$root/run/secrets/adit_password"
for state in run/adit var/lib/adit; do
  mount -t tmpfs -o uid=65532,gid=65532,mode=0700 tmpfs "$root/$state"
done
mount -o remount,bind,ro "$root"
if touch "$root/x" 2>/dev/null; then echo "the root can be written to" >&2; exit 1; fi
# The three that chroot needs itself go with the user, and nothing brings them back.
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
  chroot --userspec=65532:65532 --groups= "$root" "$@"
"#;

#[tokio::test]
async fn runs_as_process_1_on_a_read_only_root_without_any_privilege() {
    let Some(container) = container().await else {
        return;
    };
    let surroundings = Surroundings::new().await;
    let mut run = command("unshare");
    run.args(["--mount", "--pid", "--fork", "--kill-child", "env", "-i"]);
    run.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    run.args(surroundings.environment());
    run.args(["sh", "-c", READ_ONLY, "sh"]);
    run.arg(container.root()).arg(&surroundings.secret);
    run.args(container.program());
    let (mut adit, id) = start("unshare", &mut run).await;
    announced(&surroundings.cloud).await;
    let id = descendant(id, "adit").await;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(
        ["NSpid:", "Uid:", "CapPrm:", "CapEff:", "NoNewPrivs:"].map(field),
        ["1", "65532", "0000000000000000", "0000000000000000", "1"]
    );
    let lan = Lan::echo().await;
    let (_, mut far_end) = open_to(&surroundings.cloud, DEVICE, "localhost", lan.port).await;
    far_end.echo("hello").await;
    signal(id);
    let (_, frame) = far_end.rest().await;
    assert_eq!(u16::from(frame.unwrap().code), 1001);
    assert!(adit.wait_for_exit(EXIT_LIMIT).await.success());
    assert!(rows(&surroundings.cloud, "s/us").len() > 1);
}

#[tokio::test]
async fn has_nothing_in_the_image_that_adit_could_change_or_start() {
    let Some(container) = container().await else {
        return;
    };
    let root = container.root();
    let mut folders = vec![root.clone()];
    let (mut writable, mut programs) = (Vec::new(), Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let name = format!("/{}", path.strip_prefix(&root).unwrap().display());
            let mode = metadata.permissions().mode();
            if metadata.uid() != 0 || mode & 0o022 != 0 {
                writable.push(name.clone());
            }
            if metadata.is_file() && mode & 0o111 != 0 && !name.starts_with("/lib") {
                programs.push(name);
            }
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    writable.sort();
    assert_eq!(writable, ["/run/adit", "/var/lib/adit"]);
    assert_eq!(programs, ["/usr/bin/adit"]);

    let config = container.image_config();
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(container.program(), ["/usr/bin/adit", "run"]);
    let label = &config["Labels"]["org.opencontainers.image.version"];
    assert_eq!(label, "under-test");
    // The roots of the image are those that adit would find on a whole system.
    let roots = std::fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(roots.matches("BEGIN CERTIFICATE").count() > 100);
}
