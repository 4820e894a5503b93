//! The certificate of this device: how long it lives, and who renews it. Pure.

use std::time::{Duration, SystemTime};

use super::report::Hop;
use crate::auth::renewal;
use crate::auth::settings::Authority;
use crate::net::certificate::day;
use crate::net::identity::Identity;
use crate::words::date;

const NAME: &str = "certificate";
const DAY: Duration = Duration::from_hours(24);
/// One that somebody has to renew should be renewed when it ends sooner.
const RENEWAL_TIME: Duration = Duration::from_hours(30 * 24);

/// Said where the platform's authority has issued none yet.
pub(super) fn not_issued() -> Hop {
    let advice = "run `adit enrol`, and register the device as it says";
    Hop::failed(NAME, "none was issued yet", Duration::ZERO, advice)
}

/// Judges one that is there; `authority` has issued it if adit renews it itself, and `newest` is its
/// successor if there is one already.
pub(super) fn judge(
    identity: &Identity,
    newest: Option<&Identity>,
    authority: Option<&Authority>,
    now: SystemTime,
) -> Hop {
    let (begins, ends) = identity.life;
    let name = identity.name();
    if now > ends || now < begins {
        // Here the hour matters.
        let (begins, ends, now) = (date(begins), date(ends), date(now));
        let words = format!("'{name}', valid from {begins} until {ends}, and now is {now}");
        let remedy = match authority {
            Some(_) => "remove auth.cert_file and run `adit enrol`, as for a new gateway",
            None => "renew the certificate",
        };
        let advice = format!("set this machine's clock if it is wrong, or else {remedy}");
        return Hop::failed(NAME, &words, Duration::ZERO, &advice);
    }
    let words = format!("'{name}', valid from {} until {}", day(begins), day(ends));
    if let Some(newest) = newest.filter(|newest| !newest.is_same(identity)) {
        let until = day(newest.life.1);
        let words = format!("{words}; a renewed one, until {until}, is tried at the next login");
        return Hop::passed(NAME, &words, Duration::ZERO);
    }
    match authority {
        Some(Authority { renew_before, .. }) => {
            let due = renewal::first_due_at(ends, *renew_before);
            renewed_by_adit(&words, due, now)
        }
        None => {
            let left = ends.duration_since(now).unwrap_or_default();
            renewed_by_others(&words, left)
        }
    }
}

fn renewed_by_adit(words: &str, due: SystemTime, now: SystemTime) -> Hop {
    let on = day(due);
    // It begins at some moment of the first day.
    if now > due + DAY {
        let hop = Hop::passed(NAME, words, Duration::ZERO);
        return hop.with_advice(&format!(
            "adit should have renewed it since {on}: does it run? Its log says why nothing comes; \
             `adit enrol --renew` asks at once"
        ));
    }
    let words = format!("{words}; adit renews it on {on} or the day after");
    Hop::passed(NAME, &words, Duration::ZERO)
}

fn renewed_by_others(words: &str, left: Duration) -> Hop {
    let hop = Hop::passed(NAME, words, Duration::ZERO);
    if left >= RENEWAL_TIME {
        return hop;
    }
    let days = left.as_secs() / DAY.as_secs();
    hop.with_advice(&format!("renew it soon: it ends in {days} days"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::super::report::Outcome;
    use super::*;
    use crate::net::identity::Files;

    fn files() -> Files {
        Files {
            certificate: "device.pem".into(),
            key: "device.key".into(),
        }
    }

    /// Valid from the first day of 2020 to the first day of 2030.
    fn identity() -> Identity {
        identity_until(2030)
    }

    fn identity_until(year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "gw-7");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let cert = params.self_signed(&key).unwrap().pem();
        Identity::parse(files(), cert.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn authority() -> Authority {
        Authority {
            files: files(),
            one_time_password: None,
            renew_before: 60 * DAY,
        }
    }

    const LIFE: &str = "'gw-7', valid from 2020-01-01 until 2030-01-01";
    const FAULT: &str = "'gw-7', valid from 2020-01-01T00:00:00Z until 2030-01-01T00:00:00Z, and now \
                         is ";

    fn assert_judged(
        authority: Option<&Authority>,
        now: &str,
        (outcome, detail, advice): (Outcome, &str, Option<&str>),
    ) {
        let time = humantime::parse_rfc3339(now).unwrap();
        let hop = judge(&identity(), None, authority, time);
        assert_eq!(hop.outcome, outcome, "{now}");
        assert_eq!(hop.detail, detail, "{now}");
        assert_eq!(hop.advice, Vec::from_iter(advice), "{now}");
    }

    #[test]
    fn warns_of_a_certificate_that_ends_soon() {
        let renew = "set this machine's clock if it is wrong, or else renew the certificate";
        let fault = |now| format!("{FAULT}{now}");
        let (late, early) = ("2030-01-01T00:00:01Z", "2019-12-31T23:59:59Z");
        for (now, judged) in [
            ("2029-12-01T00:00:00Z", (Outcome::Passed, LIFE, None)),
            (
                "2029-12-02T00:00:01Z",
                (
                    Outcome::Passed,
                    LIFE,
                    Some("renew it soon: it ends in 29 days"),
                ),
            ),
            (late, (Outcome::Failed, &*fault(late), Some(renew))),
            (early, (Outcome::Failed, &*fault(early), Some(renew))),
        ] {
            assert_judged(None, now, judged);
        }
    }

    #[test]
    fn says_when_adit_renews_a_certificate_itself() {
        let will = format!("{LIFE}; adit renews it on 2029-11-02 or the day after");
        let overdue = "adit should have renewed it since 2029-11-02: does it run? Its log says why \
                       nothing comes; `adit enrol --renew` asks at once";
        let again = "set this machine's clock if it is wrong, or else remove auth.cert_file and run \
                     `adit enrol`, as for a new gateway";
        let late = "2030-01-01T00:00:01Z";
        for (now, judged) in [
            ("2021-01-01T00:00:00Z", (Outcome::Passed, &*will, None)),
            ("2029-11-02T23:00:00Z", (Outcome::Passed, &*will, None)),
            (
                "2029-11-03T00:00:01Z",
                (Outcome::Passed, LIFE, Some(overdue)),
            ),
            (
                late,
                (Outcome::Failed, &*format!("{FAULT}{late}"), Some(again)),
            ),
        ] {
            assert_judged(Some(&authority()), now, judged);
        }
        let now = humantime::parse_rfc3339("2029-12-31T00:00:00Z").unwrap();
        let (proven, newest) = (identity(), identity_until(2031));
        let hop = judge(&proven, Some(&newest), Some(&authority()), now);
        let waits = "; a renewed one, until 2031-01-01, is tried at the next login";
        assert_eq!(hop.detail, format!("{LIFE}{waits}"));
        assert_eq!(hop.advice, Vec::<String>::new());
    }
}
