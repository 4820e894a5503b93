//! The main job: bytes between a machine and the cloud, and what the platform is told of it.

use simulated_cloud::Status;

use crate::support::{Adit, FarEnd, ID_SOURCES, LIMIT, Lan, Site, SiteOptions, Surroundings, rows};

/// Parts the duration out of the text of a Closed event.
fn without_duration(text: &str) -> String {
    let (before, rest) = text.split_once("open for ").unwrap();
    let (duration, after) = rest.split_once(" s, ").unwrap();
    assert!(
        duration.parse::<f64>().unwrap() < LIMIT.as_secs_f64(),
        "{text}"
    );
    format!("{before}{after}")
}

#[tokio::test]
async fn carries_bytes_and_tells_the_platform_when_a_tunnel_opens_and_ends() {
    for tls in [false, true] {
        let site = Site::with(SiteOptions {
            tls,
            ..SiteOptions::default()
        })
        .await;
        let _adit = site.adit(&[]).await;
        let lan = Lan::echo().await;
        let target = format!("127.0.0.1:{}", lan.port);
        let (id, mut far_end) = site.open(lan.port).await;
        far_end.echo("hello").await;
        let opened = (
            "c8y_RemoteAccessOpened".to_owned(),
            format!("tunnel to {target} opened"),
        );
        assert_eq!(site.event(&site.gateway, 1).await, opened);
        far_end.close().await;
        let (kind, text) = site.event(&site.gateway, 2).await;
        assert_eq!(kind, "c8y_RemoteAccessClosed");
        assert_eq!(
            without_duration(&text),
            format!(
                "tunnel to {target} closed: closed by the cloud; 5 bytes to the cloud, \
                 5 bytes to the device"
            )
        );
        assert_eq!(
            site.cloud.operation(id).unwrap().status(),
            Status::Successful
        );
        site.assert_no_complaint();
    }
}

#[tokio::test]
async fn says_that_the_machine_has_ended_a_tunnel() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let (port, machine) = Lan::held().await;
    let (_, mut far_end) = site.open(port).await;
    drop(machine.accept().await);
    let (bytes, frame) = far_end.rest().await;
    let frame = frame.unwrap();
    assert_eq!((bytes.len(), u16::from(frame.code)), (0, 1000));
    let (_, text) = site.event(&site.gateway, 2).await;
    assert_eq!(
        without_duration(&text),
        format!(
            "tunnel to 127.0.0.1:{port} closed: closed by the device; 0 bytes to the cloud, \
             0 bytes to the device"
        )
    );
}

#[tokio::test]
async fn sends_no_events_where_they_are_not_wanted() {
    let site = Site::new().await;
    let _adit = site.adit(&["remote_access.events=false"]).await;
    let lan = Lan::echo().await;
    let (_, far_end) = site.open(lan.port).await;
    far_end.close().await;
    // Whatever the first tunnel had to tell is out before this one is executing.
    site.open(lan.port).await;
    assert_eq!(site.cloud.events(&site.gateway), []);
}

#[tokio::test]
async fn loses_nothing_of_what_a_machine_says_first() {
    let site = Site::new().await;
    let _adit = site.adit(&[]).await;
    let lan = Lan::banner("SSH-2.0-OpenSSH_9.2\r\n").await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.expect("SSH-2.0-OpenSSH_9.2\r\n").await;
    far_end.echo("SSH-2.0-client\r\n").await;
}

#[tokio::test]
async fn answers_for_a_child_on_its_own_topic() {
    for ids in ID_SOURCES {
        let site = Site::new().await;
        let _adit = site.adit(&[ids]).await;
        let child = site.child("plc");
        let lan = Lan::echo().await;
        let mut tunnel = site
            .cloud
            .open_tunnel(&child, "localhost", lan.port)
            .unwrap();
        let mut far_end = FarEnd(tunnel.accept(LIMIT).await.unwrap());
        far_end.echo("hello").await;
        site.opened(tunnel.operation).await;
        site.event(&child, 1).await;
        let statuses = match ids.ends_with("none") {
            true => ["501", "503"].map(|row| format!("{row},c8y_RemoteAccessConnect")),
            false => ["504", "506"].map(|row| format!("{row},{}", tunnel.operation)),
        };
        let mut said = rows(&site.cloud, &format!("s/us/{child}"));
        // A tunnel may open before the id of its operation comes, and with that all statuses.
        let opened = format!(
            "400,c8y_RemoteAccessOpened,tunnel to localhost:{} opened",
            lan.port
        );
        let place = said.iter().position(|row| *row == opened).unwrap();
        said.remove(place);
        assert_eq!(
            said.remove(0),
            "507,c8y_RemoteAccessConnect,begun before adit started; connect again"
        );
        assert_eq!(said, statuses, "{ids}");
        assert_eq!(site.cloud.events(&site.gateway), []);
    }
}

#[tokio::test]
async fn takes_rows_and_answers_them_behind_a_topic_prefix() {
    let site = Site::with(SiteOptions {
        topic_prefix: "c8y/",
        ..SiteOptions::default()
    })
    .await;
    let _adit = site.adit(&[]).await;
    let lan = Lan::echo().await;
    let (_, mut far_end) = site.open(lan.port).await;
    far_end.echo("hello").await;
}

#[tokio::test]
async fn carries_out_what_was_asked_while_it_was_away() {
    for ids in ID_SOURCES {
        carry_out_what_was_asked_meanwhile(ids).await;
    }
}

async fn carry_out_what_was_asked_meanwhile(ids: &str) {
    let site = Site::new().await;
    site.cloud
        .create_device(&site.gateway, "Gateway", "adit_Gateway");
    let lan = Lan::echo().await;
    let mut tunnels: Vec<_> = (0..3)
        .map(|_| site.request("127.0.0.1", lan.port))
        .collect();
    let _adit = site.adit(&[ids]).await;
    for tunnel in &mut tunnels {
        FarEnd(tunnel.accept(LIMIT).await.unwrap())
            .echo("hello")
            .await;
        site.opened(tunnel.operation).await;
    }
    site.assert_no_complaint();
}

#[tokio::test]
async fn has_room_for_as_many_open_files_as_its_tunnels_need() {
    let site = Site::new().await;
    for (limits, max_tunnels, raised_to, warning) in [
        ((64, 4096), "1000", 2128, None),
        ((64, 256), "64", 256, None),
        ((64, 256), "1000", 256, Some("tunnels=64")),
        ((4096, 4096), "64", 4096, None),
    ] {
        let surroundings = Surroundings {
            open_files: Some(limits),
            ..Surroundings::default()
        };
        let setting = format!("remote_access.max_tunnels={max_tunnels}");
        let mut adit = site.adit_in(&surroundings, &[&setting]).await;
        assert_eq!(adit.open_files_limit(), raised_to, "{limits:?}");
        adit.terminate();
        assert!(adit.exit().await.success());
        let log = adit.log();
        let said = log.lines().find(|line| line.contains("too few open files"));
        assert_eq!(said.is_some(), warning.is_some(), "{said:?}");
        assert!(warning.is_none_or(|words| log.contains(words)), "{said:?}");
    }
}

#[tokio::test]
async fn says_what_it_needs_where_the_system_allows_too_few_open_files() {
    let site = Site::new().await;
    for limit in [8, 31] {
        let surroundings = Surroundings {
            open_files: Some((8, limit)),
            ..Surroundings::default()
        };
        let mut adit = Adit::start_in(&surroundings, &site.config(), &[]);
        assert_eq!(adit.exit().await.code(), Some(1));
        let words = format!("allows {limit} open files, and adit needs at least 32");
        assert!(adit.log().contains(&words), "{}", adit.log());
    }
    let surroundings = Surroundings {
        open_files: Some((8, 32)),
        ..Surroundings::default()
    };
    let adit = site.adit_in(&surroundings, &[]).await;
    let lan = Lan::echo().await;
    site.open(lan.port).await.1.echo("hello").await;
    assert!(adit.log().contains("adit is confined"), "{}", adit.log());
}

#[tokio::test]
async fn opens_more_tunnels_than_its_first_limit_of_files_allows() {
    const TUNNELS: usize = 40;
    let site = Site::new().await;
    let surroundings = Surroundings {
        open_files: Some((48, 1024)),
        ..Surroundings::default()
    };
    let _adit = site.adit_in(&surroundings, &[]).await;
    let lan = Lan::echo().await;
    let mut far_ends = Vec::new();
    for _ in 0..TUNNELS {
        far_ends.push(site.open(lan.port).await.1);
    }
    for far_end in &mut far_ends {
        far_end.echo("hello").await;
    }
    site.assert_no_complaint();
}
