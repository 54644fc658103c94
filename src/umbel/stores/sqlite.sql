-- The tables of sqlite:///path. Instants are epoch seconds; NULL means never.

-- A message is in one place: waiting (owner and due are NULL), delayed (due is set) or held (owner is set).
-- Line of a queue: priority (0 first), then place, then id. New messages have place 0; those put to the front get
-- places that decrease below all others (see counters).
CREATE TABLE IF NOT EXISTS messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, so that an old tag cannot settle a newer message
    queue       TEXT NOT NULL,
    priority    INTEGER NOT NULL,
    place       INTEGER NOT NULL DEFAULT 0,
    due         REAL,
    owner       TEXT,                              -- identity of the consumer that holds it
    deliveries  INTEGER NOT NULL DEFAULT 0,        -- how often it was taken; part of the tag
    redelivered INTEGER NOT NULL DEFAULT 0,
    payload     BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_waiting ON messages (queue, priority, place) WHERE owner IS NULL AND due IS NULL;
CREATE INDEX IF NOT EXISTS messages_delayed ON messages (queue, due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_held ON messages (owner) WHERE owner IS NOT NULL;

-- Consumers and how long what they hold is theirs.
CREATE TABLE IF NOT EXISTS leases (
    identity TEXT PRIMARY KEY,
    ends     REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS dead_letters (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    queue   TEXT NOT NULL,
    payload BLOB NOT NULL,
    reason  TEXT NOT NULL,
    at      REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS dead_letters_queue ON dead_letters (queue, id);
CREATE INDEX IF NOT EXISTS dead_letters_at ON dead_letters (at);

-- Why, beside its reason, a message is a dead letter: JSON. Goes with its letter, whoever deletes that.
CREATE TABLE IF NOT EXISTS dead_causes (
    id    INTEGER PRIMARY KEY,
    cause TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS dead_letters_deleted AFTER DELETE ON dead_letters
BEGIN DELETE FROM dead_causes WHERE id = OLD.id; END;

-- Redelivered messages on which work has begun: of the next loss of these it is counted that it happened.
CREATE TABLE IF NOT EXISTS begun (
    id         INTEGER PRIMARY KEY,
    deliveries INTEGER NOT NULL
);

-- Broadcasts: subscribers read on from the id at which they began; gone_at is soon.
CREATE TABLE IF NOT EXISTS broadcasts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, so that nobody misses one after a deletion
    exchange    TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    payload     BLOB NOT NULL,
    gone_at     REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS broadcasts_gone_at ON broadcasts (gone_at);

-- Which queues get what is sent to a named exchange; routing_key is a pattern where exchange_type is 'topic'.
CREATE TABLE IF NOT EXISTS bindings (
    exchange      TEXT NOT NULL,
    exchange_type TEXT NOT NULL,
    routing_key   TEXT NOT NULL,
    queue         TEXT NOT NULL,
    PRIMARY KEY (exchange, exchange_type, routing_key, queue)
) WITHOUT ROWID;

-- Tasks that must not run; whoever adds some deletes those whose time is over.
CREATE TABLE IF NOT EXISTS revoked (
    task_id TEXT PRIMARY KEY,
    gone_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS revoked_gone_at ON revoked (gone_at);
-- Stamps by which tasks are revoked, as text.
CREATE TABLE IF NOT EXISTS revoked_stamps (
    stamp   TEXT PRIMARY KEY,
    gone_at REAL NOT NULL
) WITHOUT ROWID;

-- What instants are counted by, see sqlite_clock.py: seconds ahead of the time since the machine was started as ``boot``.
CREATE TABLE IF NOT EXISTS clock (
    boot  TEXT PRIMARY KEY,
    ahead REAL NOT NULL,
    seen  REAL NOT NULL,                           -- where the machine's clock stood at the last look
    since REAL                                     -- since when it has differed from ahead
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS results (
    id       INTEGER PRIMARY KEY AUTOINCREMENT, -- grows with each change, so that waiters can read what is new
    task_id  TEXT NOT NULL UNIQUE,
    state    TEXT NOT NULL,
    document BLOB NOT NULL,
    gone_at  REAL
);
CREATE INDEX IF NOT EXISTS results_gone_at ON results (gone_at) WHERE gone_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('front', 0);

-- Groups that were saved: which results make them up.
CREATE TABLE IF NOT EXISTS groups (
    group_id TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    gone_at  REAL
) WITHOUT ROWID;

-- Chords whose parts are being counted. token is set from the last part on, ended once the body was sent, or was not.
CREATE TABLE IF NOT EXISTS chords (
    group_id TEXT PRIMARY KEY,
    size     INTEGER,                              -- NULL: not all parts were sent yet
    extra    INTEGER NOT NULL DEFAULT 0,
    counted  INTEGER NOT NULL DEFAULT 0,           -- rows in chord_parts
    token    TEXT,
    ended    INTEGER NOT NULL DEFAULT 0,
    realm    TEXT,                                 -- with body and due: NULL unless it is to be completed
    body     BLOB,
    due      REAL,                                 -- when another worker may take it up
    gone_at  REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chords_due ON chords (realm, due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS chords_gone_at ON chords (gone_at) WHERE gone_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS chord_parts (
    group_id TEXT NOT NULL,
    member   TEXT NOT NULL,                        -- task id and index: what is counted once
    position REAL NOT NULL,
    place    INTEGER NOT NULL,                     -- the order of arrival, among those of one position
    entry    BLOB NOT NULL,
    PRIMARY KEY (group_id, member)
) WITHOUT ROWID;
