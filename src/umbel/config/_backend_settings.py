"""The settings of particular result backends."""

from __future__ import annotations

from functools import partial

from umbel.config.setting import Setting
from umbel.config.values import ANY, BOOL, DICT, FLOAT, INT, LIST, OBJECT, PATH, SECONDS, TEXT, TLS

__all__ = ["DATABASE", "OTHERS", "REDIS"]

_redis = partial(Setting, group="redis")
_database = partial(Setting, group="database")
_cassandra = partial(Setting, group="cassandra", idle=True)
_s3 = partial(Setting, group="s3", idle=True)
_azure = partial(Setting, group="azureblockblob", idle=True)
_gcs = partial(Setting, group="gcs", idle=True)
_cosmos = partial(Setting, group="cosmosdbsql", idle=True)
_elastic = partial(Setting, group="elasticsearch", idle=True)

REDIS = (
    _redis("redis_backend_use_ssl", TLS, None, "TLS options of the connection, ssl_*."),
    _redis("redis_db", INT, None, "Database number, where the URL names none."),
    _redis("redis_host", TEXT, None, "Host, where no URL is given."),
    _redis("redis_max_connections", INT, None, "Size of the connection pool; None without bound."),
    _redis("redis_username", TEXT, None, "User, where the URL names none."),
    _redis("redis_password", TEXT, None, "Password, where the URL has none."),
    _redis("redis_port", INT, None, "Port, where the URL names none."),
    _redis("redis_socket_timeout", SECONDS, 120.0, "Seconds to wait for a read or a write."),
    _redis("redis_socket_connect_timeout", SECONDS, None, "Seconds to connect; None: redis_socket_timeout."),
    _redis("redis_retry_on_timeout", BOOL, False, "Try a read again that timed out."),
    _redis("redis_socket_keepalive", BOOL, False, "Keep connections alive with TCP."),
    _redis(
        "redis_backend_health_check_interval",
        SECONDS,
        None,
        "Seconds between checks of idle sockets.",
        unlisted=True,
    ),
    _redis(
        "redis_backend_credential_provider",
        OBJECT,
        None,
        "Class path or instance of a redis CredentialProvider.",
        unlisted=True,
        idle=True,
    ),
    _redis("redis_client_name", TEXT, None, "Name of the connections in CLIENT LIST.", unlisted=True),
)

DATABASE = (
    _database(
        "database_url",
        TEXT,
        None,
        "SQLAlchemy URL of the backend 'database'.",
        irregular="CELERY_RESULT_DBURI",
    ),
    _database(
        "database_engine_options",
        DICT,
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "Arguments of create_engine.",
        irregular="CELERY_RESULT_ENGINE_OPTIONS",
    ),
    _database(
        "database_engine_callback", OBJECT, None, "Called with each new engine; a callable or its path."
    ),
    _database(
        "database_short_lived_sessions",
        BOOL,
        False,
        "Use a new session for each call.",
        irregular="CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
    ),
    _database("database_table_schemas", DICT, None, "Schema of the tables task and group."),
    _database(
        "database_table_names",
        DICT,
        None,
        "Names of the tables task and group.",
        irregular="CELERY_RESULT_DB_TABLENAMES",
    ),
    _database(
        "database_create_tables_at_setup", BOOL, True, "Create tables at once rather than on first use."
    ),
)

OTHERS = (
    Setting("cache_backend", TEXT, None, "Which memcached client and server.", "cache"),
    Setting("cache_backend_options", DICT, {}, "Options of the memcached client.", "cache"),
    Setting("couchbase_backend_settings", DICT, None, "Couchbase: host, bucket, ...", "couchbase", idle=True),
    Setting("arangodb_backend_settings", DICT, None, "ArangoDB: host, database, ...", "arangodb", idle=True),
    Setting(
        "mongodb_backend_settings", DICT, None, "MongoDB: database, collections, ...", "mongodb", idle=True
    ),
    Setting(
        "dynamodb_endpoint_url",
        TEXT,
        None,
        "DynamoDB: another endpoint.",
        "dynamodb",
        unlisted=True,
        idle=True,
    ),
    _cassandra("cassandra_entry_ttl", SECONDS, None, "Seconds rows are kept."),
    _cassandra("cassandra_keyspace", TEXT, None, "Keyspace."),
    _cassandra("cassandra_port", INT, None, "Port; None is 9042."),
    _cassandra("cassandra_read_consistency", TEXT, None, "Consistency of reads; None is LOCAL_QUORUM."),
    _cassandra("cassandra_servers", LIST, None, "Hosts."),
    _cassandra("cassandra_bundle_path", PATH, None, "Not read by Celery; see cassandra_secure_bundle_path."),
    _cassandra("cassandra_table", TEXT, None, "Table."),
    _cassandra("cassandra_write_consistency", TEXT, None, "Consistency of writes; None is LOCAL_QUORUM."),
    _cassandra("cassandra_auth_provider", TEXT, None, "Class name of the authentication provider."),
    _cassandra("cassandra_auth_kwargs", ANY, None, "Arguments of the authentication provider."),
    _cassandra("cassandra_options", DICT, {}, "Arguments of the cluster."),
    _cassandra(
        "cassandra_secure_bundle_path", PATH, None, "Astra's bundle; excludes servers.", unlisted=True
    ),
    _s3("s3_access_key_id", TEXT, None, "AWS key id."),
    _s3("s3_secret_access_key", TEXT, None, "AWS secret key."),
    _s3("s3_bucket", TEXT, None, "Bucket."),
    _s3("s3_base_path", TEXT, None, "Prefix of keys."),
    _s3("s3_endpoint_url", TEXT, None, "Another endpoint."),
    _s3("s3_region", TEXT, None, "Region."),
    _azure("azureblockblob_container_name", TEXT, "celery", "Container."),
    _azure("azureblockblob_retry_initial_backoff_sec", INT, 2, "Seconds before the first retry."),
    _azure("azureblockblob_retry_increment_base", INT, 2, "Growth of that wait."),
    _azure("azureblockblob_retry_max_attempts", INT, 3, "How often to try."),
    _azure("azureblockblob_base_path", TEXT, "", "Prefix of blobs."),
    _azure("azureblockblob_connection_timeout", SECONDS, 20, "Seconds to connect."),
    _azure("azureblockblob_read_timeout", SECONDS, 120, "Seconds to read."),
    _gcs("gcs_bucket", TEXT, None, "Bucket."),
    _gcs("gcs_project", TEXT, None, "Project."),
    _gcs("gcs_base_path", TEXT, "", "Prefix of objects."),
    _gcs("gcs_ttl", SECONDS, 0, "Seconds objects are kept; 0: for ever."),
    _gcs("gcs_threadpool_maxsize", INT, 10, "Reads at once.", unlisted=True),
    _cosmos("cosmosdbsql_database_name", TEXT, "celerydb", "Database."),
    _cosmos("cosmosdbsql_collection_name", TEXT, "celerycol", "Collection."),
    _cosmos("cosmosdbsql_consistency_level", TEXT, "Session", "Consistency."),
    _cosmos("cosmosdbsql_max_retry_attempts", INT, 9, "How often to try."),
    _cosmos("cosmosdbsql_max_retry_wait_time", SECONDS, 30, "Seconds to go on trying."),
    _elastic("elasticsearch_retry_on_timeout", BOOL, None, "Try again after a timeout."),
    _elastic("elasticsearch_max_retries", INT, None, "How often to try."),
    _elastic("elasticsearch_timeout", FLOAT, None, "Seconds to wait."),
    _elastic(
        "elasticsearch_save_meta_as_text", BOOL, True, "Store results as text; False stores them as JSON."
    ),
)
