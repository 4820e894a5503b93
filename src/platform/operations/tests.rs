use proptest::prelude::*;

use super::memory::{REMEMBERED_KEYS, REMEMBERED_ROWS};
use super::*;

/// Rows of either template.
fn rows(payload: &str) -> Vec<PendingOperation> {
    let rows = smartrest::decode(payload.as_bytes());
    let operation = |row| match PendingOperation::from_static_row(row) {
        Some(operation) => operation,
        None => PendingOperation::from_collection_row(row).unwrap().unwrap(),
    };
    rows.iter().map(operation).collect()
}

/// Reports as the rows they become: `gw 501`, `gw 503`, `gw 502 reason`, `gw 504 id`.
fn written(reports: &[Report]) -> Vec<String> {
    let word = |report: &Report| {
        let status = report.status.clone();
        let operation = report.operation.clone();
        let row = smartrest::Request::Status { operation, status }.to_row();
        let fields: Vec<_> = row.fields().iter().map(String::as_str).collect();
        let row = fields.join(" ").replace("c8y_RemoteAccessConnect", "");
        let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{} {row}", report.device)
    };
    reports.iter().map(word).collect()
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.to_owned())
}

#[test]
fn reports_the_older_of_two_tunnels_first() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,fast,22,k2"), None);
    assert_eq!(written(&received.reports), ["gw 501", "gw 501"]);
    let [(slow, _), (fast, _)] = &received.start[..] else {
        panic!("{received:?}")
    };
    assert_eq!(operations.finish("gw", *fast, Outcome::Successful), []);
    let reports = operations.finish("gw", *slow, failed("refused"));
    assert_eq!(written(&reports), ["gw 502 refused", "gw 503"]);
    assert_eq!(operations.open(), 0);
}

#[test]
fn lets_no_device_wait_for_another() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,slow,22,k1\n530,plc,fast,22,k2"), None);
    let reports = operations.finish("plc", received.start[1].0, Outcome::Successful);
    assert_eq!(written(&reports), ["plc 503"]);
}

#[test]
fn gives_a_malformed_row_its_place_in_the_order() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,plc,22,k1\n530,gw,plc,0,k2\n530,gw"), None);
    assert_eq!(written(&received.reports), ["gw 501", "gw 501", "gw 501"]);
    let reports = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(
        written(&reports),
        [
            "gw 503",
            "gw 502 port 0 is not from 1 to 65535",
            "gw 502 the hostname is missing"
        ]
    );
}

#[test]
fn reports_an_operation_with_an_id_before_an_older_one() {
    let mut operations = Operations::default();
    let received = operations.receive(
        &rows("901,gw,1001,slow,22,k1\n901,gw,1002,fast,22,k2"),
        None,
    );
    assert_eq!(written(&received.reports), ["gw 504 1001", "gw 504 1002"]);
    let fast = operations.finish("gw", received.start[1].0, Outcome::Successful);
    assert_eq!(written(&fast), ["gw 506 1002"]);
    let slow = operations.finish("gw", received.start[0].0, failed("refused"));
    assert_eq!(written(&slow), ["gw 505 1001 refused"]);
}

#[test]
fn lets_a_result_without_an_id_wait_for_an_older_operation_that_has_one() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("901,gw,1001,slow,22,k1\n530,gw,fast,22,k2"), None);
    assert_eq!(written(&received.reports), ["gw 504 1001", "gw 501"]);
    let fast = operations.finish("gw", received.start[1].0, Outcome::Successful);
    assert_eq!(fast, []);
    let slow = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(written(&slow), ["gw 506 1001", "gw 503"]);
}

#[test]
fn lets_a_result_go_when_a_copy_brings_its_id() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,fast,22,k2"), None);
    assert_eq!(
        operations.finish("gw", received.start[1].0, Outcome::Successful),
        []
    );
    let copy = operations.receive(&rows("901,gw,1002,fast,22,k2"), None);
    assert_eq!(written(&copy.reports), ["gw 506 1002"]);
    assert_eq!((copy.start.len(), copy.ignored.len()), (0, 1));
    let slow = operations.finish("gw", received.start[0].0, failed("refused"));
    assert_eq!(written(&slow), ["gw 502 refused"]);
}

#[test]
fn names_an_open_operation_without_a_key_when_a_copy_brings_its_id() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,slow,22,k1\n530,gw,plc,22"), None);
    assert_eq!(written(&received.reports), ["gw 501", "gw 501"]);
    let copy = operations.receive(&rows("901,gw,1002,plc,22,"), None);
    let reason = "gw 505 1002 the connection key is missing";
    assert_eq!(written(&copy.reports), [reason]);
    let again = operations.receive(&rows("901,gw,1002,plc,22,\n530,gw,plc,22"), None);
    assert_eq!((again.reports.len(), again.ignored.len()), (0, 2));
    let slow = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(written(&slow), ["gw 503"]);
}

#[test]
fn fails_a_malformed_row_with_an_id_once() {
    for (row, reason) in [
        ("901,gw,7,plc,22,", "the connection key is missing"),
        ("901,gw,7,,22,k", "the hostname is missing"),
        ("901,gw,7,plc,0,k", "port 0 is not from 1 to 65535"),
    ] {
        let mut operations = Operations::default();
        operations.receive(&rows("901,gw,1,slow,22,older"), None);
        let received = operations.receive(&rows(row), None);
        let failed = format!("gw 505 7 {reason}");
        assert_eq!(written(&received.reports), ["gw 504 7".to_owned(), failed]);
        let again = operations.receive(&rows(row), None);
        assert_eq!((again.reports.len(), again.ignored.len()), (0, 1), "{row}");
    }
}

#[test]
fn leaves_operations_that_look_the_same_in_the_order_of_their_payload() {
    let rows_of_the_payload = [
        "530,gw,plc,22",
        "530,gw,plc,22,k2",
        "530,gw,plc,22",
        "530,gw,plc,22,k3",
    ];
    // With a row among them that came before, and without.
    for again in ["", "530,gw,oldest,22,k1\n"] {
        let mut operations = Operations::default();
        let oldest = operations.receive(&rows("530,gw,oldest,22,k1"), None);
        let payload = again.to_owned() + &rows_of_the_payload.join("\n");
        let received = operations.receive(&rows(&payload), None);
        let statuses = written(&received.reports);
        assert_eq!(statuses, ["gw 501"; 4]);
        let [(second, _), (third, _)] = &received.start[..] else {
            panic!("{received:?}");
        };
        operations.finish("gw", *third, failed("refused"));
        operations.finish("gw", *second, Outcome::Successful);
        let reports = operations.finish("gw", oldest.start[0].0, Outcome::Successful);
        assert_eq!(
            written(&reports),
            [
                "gw 503",
                "gw 502 the connection key is missing",
                "gw 503",
                "gw 502 the connection key is missing",
                "gw 502 refused"
            ],
            "{again:?}"
        );
    }
}

#[test]
fn forgets_a_row_without_a_key_although_a_younger_operation_is_open() {
    let start = Instant::now();
    let mut operations = Operations::default();
    operations.receive(&rows("530,gw,plc,22\n530,gw,slow,22,k"), None);
    operations.delivered(start);
    assert_eq!(operations.next_deadline(), Some(start + ROW_MEMORY));
}

#[test]
fn takes_the_id_of_an_operation_without_a_key_from_its_own_copy_only() {
    let mut operations = Operations::default();
    let payload = "530,gw,slow,22,k1\n530,gw,plc,22\n530,gw,plc,22";
    let received = operations.receive(&rows(payload), None);
    assert_eq!(received.reports.len(), 3);
    // A copy that brings no id takes no name away, and one that comes again gives no other one.
    for (row, reports) in [
        ("530,gw,plc,22", vec![]),
        (
            "901,gw,1002,plc,22,",
            vec!["gw 505 1002 the connection key is missing"],
        ),
        ("901,gw,1002,plc,22,", vec![]),
        (
            "901,gw,1003,plc,22,",
            vec!["gw 505 1003 the connection key is missing"],
        ),
        ("901,gw,1003,plc,22,", vec![]),
    ] {
        let copy = operations.receive(&rows(row), None);
        assert_eq!(written(&copy.reports), reports, "{row}");
    }
    let slow = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(written(&slow), ["gw 503"]);
}

#[test]
fn ignores_a_row_that_names_no_device() {
    let received = Operations::default().receive(&rows("530\n530,,plc,22,k"), None);
    assert_eq!(received.reports, []);
    assert_eq!(received.ignored.len(), 2);
}

#[test]
fn opens_nothing_for_a_copy_of_a_row_however_late() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,plc,22,k1\n530,gw,plc,22,k1"), None);
    assert_eq!(received.start.len(), 1);
    operations.finish("gw", received.start[0].0, Outcome::Successful);
    for key in 2..1500 {
        operations.receive(&rows(&format!("530,gw,plc,0,k{key}")), None);
    }
    let late = operations.receive(&rows("530,gw,plc,22,k1"), None);
    assert_eq!(
        late.ignored,
        [Ignored::Duplicate {
            device: "gw".into()
        }]
    );
    assert_eq!((late.reports.len(), late.start.len()), (0, 0));
}

#[test]
fn takes_a_row_without_a_key_for_a_copy_until_its_end_is_known() {
    let start = Instant::now();
    let row = "530,gw,plc,22";
    let failure = [
        "gw 501".to_owned(),
        "gw 502 the connection key is missing".to_owned(),
    ];
    let mut operations = Operations::default();
    assert_eq!(
        written(&operations.receive(&rows(row), None).reports),
        failure.clone()
    );
    // The broker is away: what was said is not acknowledged, however long that takes.
    assert_eq!(operations.next_deadline(), None);
    assert!(!operations.deadline_passed(start + 100 * ROW_MEMORY));
    assert!(operations.knows(&rows(row)[0]));
    let copy = operations.receive(&rows(row), None);
    assert_eq!((copy.reports.len(), copy.ignored.len()), (0, 1));

    operations.delivered(start);
    let end = start + ROW_MEMORY;
    assert_eq!(operations.next_deadline(), Some(end));
    operations.delivered(start + ROW_MEMORY / 2);
    assert_eq!(
        operations.next_deadline(),
        Some(end),
        "it does not begin anew"
    );
    assert!(!operations.deadline_passed(end - Duration::from_millis(1)));
    assert_eq!(operations.receive(&rows(row), None).reports, []);
    // It was perhaps no copy.
    assert!(operations.deadline_passed(end));
    assert!(!operations.deadline_passed(end));
    assert_eq!(operations.next_deadline(), None);
    assert_eq!(
        written(&operations.receive(&rows(row), None).reports),
        failure
    );
}

#[test]
fn asks_for_nothing_again_where_no_row_came_again() {
    let start = Instant::now();
    let mut operations = Operations::default();
    operations.receive(&rows("530,gw,plc,22"), None);
    operations.delivered(start);
    assert!(!operations.deadline_passed(start + ROW_MEMORY));
}

#[test]
fn remembers_a_row_without_a_key_that_waits_for_an_older_operation() {
    let start = Instant::now();
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,slow,22,k\n530,gw,plc,22"), None);
    operations.delivered(start);
    assert_eq!(operations.next_deadline(), None, "it is not finished");
    operations.finish("gw", received.start[0].0, Outcome::Successful);
    operations.delivered(start);
    assert_eq!(operations.next_deadline(), Some(start + ROW_MEMORY));
}

#[test]
fn fails_each_of_two_operations_that_look_the_same_in_one_payload() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,plc,22\n530,gw,plc,22"), None);
    assert_eq!(received.reports.len(), 4);
    let answer = operations.receive(&rows("530,gw,plc,22\n530,gw,plc,22"), None);
    assert_eq!(answer.reports, []);
}

#[test]
fn remembers_a_bounded_number_of_rows_without_a_key() {
    let mut operations = Operations::default();
    for port in 0..2 * REMEMBERED_ROWS {
        operations.receive(&rows(&format!("530,gw,plc,{port}")), None);
    }
    assert_eq!(operations.rows.len(), REMEMBERED_ROWS);
}

#[test]
fn remembers_a_bounded_number_of_keys() {
    let mut operations = Operations::default();
    for key in 0..3 * REMEMBERED_KEYS {
        operations.receive(&rows(&format!("530,gw,plc,0,k{key}")), None);
    }
    assert_eq!(operations.keys.len(), REMEMBERED_KEYS);
}

#[test]
fn puts_an_operation_before_a_younger_one_that_came_live() {
    let mut operations = Operations::default();
    let live = operations.receive(&rows("530,gw,plc,22,young"), None);
    let answer = operations.receive(&rows("530,gw,plc,22,old\n530,gw,plc,22,young"), None);
    assert_eq!(written(&answer.reports), ["gw 501"]);
    assert_eq!(
        operations.finish("gw", live.start[0].0, failed("young")),
        []
    );
    let reports = operations.finish("gw", answer.start[0].0, failed("old"));
    assert_eq!(written(&reports), ["gw 502 old", "gw 502 young"]);
}

#[test]
fn takes_a_flood_of_operations_that_are_all_open_in_a_moment() {
    use rustix::time::{ClockId, clock_gettime};

    const FLOOD: usize = 20_000;
    /// Of the processor, in a build without optimisation; with a look at each that is open for
    /// each that comes it is twenty times as much.
    const LIMIT: Duration = Duration::from_secs(5);
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let mut operations = Operations::default();
    let began = used();
    for payload in 0..FLOOD / 200 {
        let rows: String = (0..200)
            .map(|n| format!("530,gw,plc,22,key-{payload}-{n}\n"))
            .collect();
        assert_eq!(
            operations.receive(&self::rows(&rows), None).start.len(),
            200
        );
    }
    let took = used() - began;
    assert!(took < LIMIT, "{took:?}");
    assert_eq!(operations.open(), FLOOD);
}

#[test]
fn hashes_what_it_remembers_under_a_key_of_its_own() {
    let hashes = || {
        let mut operations = Operations::default();
        operations.receive(&rows("530,gw,plc,22,k1\n901,gw,1002,plc,23"), None);
        let memory = operations.memory();
        [memory.keys, memory.ids].concat()
    };
    let (one, other) = (hashes(), hashes());
    assert_eq!((one.len(), other.len()), (2, 2));
    assert!(one.iter().all(|hash| !other.contains(hash)));
}

#[test]
fn knows_what_was_over_before_the_process_that_it_takes_over_from_handed_over() {
    let now = Instant::now();
    let mut before = Operations::default();
    let all = rows("530,gw,plc,22,k1\n901,gw,1002,plc,23\n530,gw,plc,24");
    let received = before.receive(&all, None);
    assert_eq!((received.start.len(), received.malformed.len()), (1, 2));
    assert!(!before.are_reported());
    before.finish("gw", received.start[0].0, Outcome::Successful);
    assert!(before.are_reported());
    let mut after = Operations::remembering(before.memory(), now);
    let copies = after.receive(&all, None);
    assert_eq!((copies.start.len(), copies.ignored.len()), (0, 3));

    // An id of this process is never that of an operation before it.
    let other = after.receive(&rows("530,gw,plc,22,k2"), None);
    assert_eq!(other.start[0].0, OperationId(4));

    // The row without a key counts as a copy for its time, and no longer.
    let just_before = now + ROW_MEMORY - Duration::from_millis(1);
    after.deadline_passed(just_before);
    assert_eq!(after.receive(&rows("530,gw,plc,24"), None).ignored.len(), 1);
    after.deadline_passed(now + ROW_MEMORY);
    let copies = after.receive(&all, None);
    assert_eq!((copies.ignored.len(), copies.malformed.len()), (2, 1));
}

/// Lets the statuses of rows wait until `wait_until`, and returns what is said at once.
fn receive_waiting(
    operations: &mut Operations,
    payload: &str,
    wait_until: Instant,
) -> (Vec<String>, Received) {
    let received = operations.receive(&rows(payload), Some(wait_until));
    (written(&received.reports), received)
}

#[test]
fn says_nothing_of_an_operation_that_waits_for_its_id_and_lets_its_tunnel_open() {
    let until = Instant::now();
    let mut operations = Operations::default();
    let (said, received) =
        receive_waiting(&mut operations, "530,gw,plc,22,k1\n530,gw,plc,0,k2", until);
    assert_eq!((said.len(), received.start.len()), (0, 1));
    assert_eq!(operations.next_deadline(), Some(until));
    let opened = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(opened, []);
    // The younger first: it waits for nobody.
    let named = operations.receive(&rows("901,gw,1002,plc,0,k2"), None);
    assert_eq!(
        written(&named.reports),
        ["gw 504 1002", "gw 505 1002 port 0 is not from 1 to 65535"]
    );
    let named = operations.receive(&rows("901,gw,1001,plc,22,k1"), None);
    assert_eq!(written(&named.reports), ["gw 504 1001", "gw 506 1001"]);
    assert_eq!((operations.open(), operations.unsaid()), (0, 0));
    assert_eq!(operations.next_deadline(), None);
}

#[test]
fn lets_no_operation_wait_that_comes_with_its_id() {
    let mut operations = Operations::default();
    let until = Instant::now();
    let (said, _) = receive_waiting(&mut operations, "901,gw,1001,plc,22,k1", until);
    assert_eq!(said, ["gw 504 1001"]);
    assert_eq!((operations.unsaid(), operations.next_deadline()), (0, None));
}

#[test]
fn lets_nothing_without_an_id_be_said_before_an_older_operation_that_waits() {
    let until = Instant::now();
    let mut operations = Operations::default();
    receive_waiting(&mut operations, "530,gw,plc,22,older", until);
    let younger = operations.receive(&rows("530,gw,plc,22,younger\n530,child,plc,22,k"), None);
    assert_eq!(written(&younger.reports), ["child 501"]);
    assert_eq!(
        operations.finish("gw", younger.start[0].0, failed("younger")),
        []
    );
    let (missing, reports) = operations.ids_missing(until);
    assert_eq!(missing, 1);
    assert_eq!(written(&reports), ["gw 501", "gw 501"]);
    assert_eq!(operations.ids_missing(until).0, 0);
    let named = operations.receive(&rows("901,gw,7,plc,22,older"), None);
    assert_eq!(named.reports, []);
    let reports = operations.finish("gw", OperationId(1), Outcome::Successful);
    assert_eq!(written(&reports), ["gw 506 7", "gw 502 younger"]);
}

#[test]
fn answers_an_operation_without_a_key_once_in_whichever_order_its_copies_come() {
    let until = Instant::now();
    let (row, named) = ("530,gw,plc,22", "901,gw,7,plc,22,");
    let by_id = ["gw 504 7", "gw 505 7 the connection key is missing"];
    let by_order = ["gw 501", "gw 502 the connection key is missing"];
    // The row waits, and its id comes; a copy of the row comes later.
    let mut operations = Operations::default();
    assert_eq!(receive_waiting(&mut operations, row, until).0, [""; 0]);
    assert_eq!(
        written(&operations.receive(&rows(named), None).reports),
        by_id
    );
    assert_eq!(receive_waiting(&mut operations, row, until).0, [""; 0]);
    assert_eq!(operations.unsaid(), 0);
    // The id first.
    let mut operations = Operations::default();
    assert_eq!(
        written(&operations.receive(&rows(named), None).reports),
        by_id
    );
    assert_eq!(receive_waiting(&mut operations, row, until).0, [""; 0]);
    assert_eq!(operations.unsaid(), 0);
    // The id when all is said.
    let mut operations = Operations::default();
    receive_waiting(&mut operations, row, until);
    assert_eq!(written(&operations.ids_missing(until).1), by_order);
    assert_eq!(operations.receive(&rows(named), None).reports, []);
    // Another one that looks the same has an id of its own.
    let other = operations.receive(&rows("901,gw,8,plc,22,"), None);
    assert_eq!(other.reports.len(), 2);
}

#[test]
fn fails_an_operation_that_has_the_connection_key_of_another() {
    let mut operations = Operations::default();
    let first = operations.receive(&rows("901,gw,7,plc,22,k"), None);
    let second = operations.receive(&rows("901,gw,8,plc,22,k"), None);
    let reason = "gw 505 8 the connection key is that of another operation";
    assert_eq!(written(&second.reports), ["gw 504 8", reason]);
    assert_eq!(second.start, []);
    // An id that comes again says nothing, whatever comes with it.
    for row in [
        "901,gw,8,plc,22,k",
        "901,gw,7,plc,22,k",
        "901,gw,7,plc,22,l",
    ] {
        let again = operations.receive(&rows(row), None);
        assert_eq!((again.reports.len(), again.start.len()), (0, 0), "{row}");
    }
    let opened = operations.finish("gw", first.start[0].0, Outcome::Successful);
    assert_eq!(written(&opened), ["gw 506 7"]);
}

#[test]
fn takes_one_outcome_for_an_operation() {
    let mut operations = Operations::default();
    let received = operations.receive(&rows("530,gw,a,22,k1\n530,gw,b,22,k2"), None);
    let second = received.start[1].0;
    operations.finish("gw", second, failed("first word"));
    operations.finish("gw", second, Outcome::Successful);
    let reports = operations.finish("gw", received.start[0].0, Outcome::Successful);
    assert_eq!(written(&reports), ["gw 503", "gw 502 first word"]);
    assert_eq!(operations.finish("gw", second, Outcome::Successful), []);
}

/// The platform: a status goes to the operation that it names, or else to the oldest one of the
/// device in the state before.
#[derive(Default)]
struct Platform {
    /// Device, key and state; the place is the id.
    operations: Vec<(String, String, &'static str)>,
}

impl Platform {
    fn take(&mut self, report: &Report) {
        let (before, after) = match &report.status {
            Status::Executing => ("pending", "executing"),
            Status::Successful => ("executing", "successful"),
            Status::Failed(_) => ("executing", "failed"),
        };
        let mut all = self.operations.iter_mut().enumerate();
        let meant = all.find(|(place, (device, _, state))| match &report.operation {
            OperationRef::Id(id) => *id == place.to_string(),
            OperationRef::Oldest(_) => *device == report.device && *state == before,
        });
        let (_, (_, key, state)) = meant.expect("no status without an operation it is for");
        assert_eq!(*state, before, "a status by id at the wrong time");
        if let Status::Failed(reason) = &report.status {
            assert_eq!(
                reason, key,
                "the failure of one operation landed on another"
            );
        }
        *state = after;
    }
}

/// In which rows an operation arrives.
#[derive(Clone, Copy, Debug)]
enum Arrives {
    Static,
    ById,
    /// Without its id, and with it when the next one arrives.
    StaticThenById,
    /// Without its id, which is waited for and comes when the next one arrives.
    Waiting,
    /// Without its id, which is waited for in vain until the next one arrives.
    WaitingInVain,
    ByIdThenStatic,
}

fn any_arrival() -> impl Strategy<Value = Arrives> {
    use Arrives::{ById, ByIdThenStatic, Static, StaticThenById, Waiting, WaitingInVain};
    prop::sample::select(vec![
        Static,
        ById,
        StaticThenById,
        ByIdThenStatic,
        Waiting,
        WaitingInVain,
    ])
}

proptest! {
    #[test]
    fn lands_every_result_on_its_own_operation(
        arrivals in prop::collection::vec(
            (0..3_u8, any_arrival(), any::<bool>(), any::<bool>()),
            1..40,
        ),
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let start = Instant::now();
        let mut platform = Platform::default();
        let mut operations = Operations::default();
        let mut running = Vec::new();
        let mut expected = HashMap::new();
        let mut order = order.into_iter();
        let mut late = None;
        for (number, (device, arrives, repeated, succeeds)) in arrivals.into_iter().enumerate() {
            let (device, key) = (format!("d{device}"), format!("k{number}"));
            platform.operations.push((device.clone(), key.clone(), "pending"));
            expected.insert(key.clone(), if succeeds { "successful" } else { "failed" });
            let plain = format!("530,{device},plc,22,{key}");
            let named = format!("901,{device},{number},plc,22,{key}");
            let (first, second) = match arrives {
                Arrives::Static => (plain, None),
                Arrives::ById => (named, None),
                Arrives::StaticThenById | Arrives::Waiting => (plain, Some(named)),
                Arrives::WaitingInVain => (plain, None),
                Arrives::ByIdThenStatic => (named, Some(plain)),
            };
            let copy = repeated.then(|| first.clone());
            let wait = match arrives {
                Arrives::Waiting | Arrives::WaitingInVain => Some(start + Duration::from_secs(number as u64)),
                _ => None,
            };
            let before = start + Duration::from_secs((number as u64).saturating_sub(1));
            let (_, reports) = operations.ids_missing(before);
            reports.iter().for_each(|report| platform.take(report));
            for row in [Some(first), late.take(), copy].into_iter().flatten() {
                let received = operations.receive(&rows(&row), wait);
                received.reports.iter().for_each(|report| platform.take(report));
                running.extend(received.start.into_iter().map(|start| (start, succeeds)));
            }
            late = second;
            // Some end while others are still to come.
            let turn = order.next().map_or(0, |index| index.index(running.len() + 1));
            if turn < running.len() {
                end(&mut operations, &mut platform, running.swap_remove(turn));
            }
        }
        let reports = operations.give_up_ids();
        reports.iter().for_each(|report| platform.take(report));
        while !running.is_empty() {
            let turn = order.next().map_or(0, |index| index.index(running.len()));
            end(&mut operations, &mut platform, running.swap_remove(turn));
        }
        for (_, key, state) in &platform.operations {
            prop_assert_eq!(expected[key], *state, "{}", key);
        }
        prop_assert_eq!(operations.open(), 0);
    }
}

fn end(
    operations: &mut Operations,
    platform: &mut Platform,
    ((id, request), succeeds): ((OperationId, ConnectRequest), bool),
) {
    let outcome = if succeeds {
        Outcome::Successful
    } else {
        failed(request.key.expose())
    };
    for report in operations.finish(&request.device, id, outcome) {
        platform.take(&report);
    }
}
