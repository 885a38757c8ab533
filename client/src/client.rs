//! [`Client`]: the operations on single keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use softstore_proto::batch::{OpView, Value};
use softstore_proto::v1;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{SliceKey, Version};
use tokio_util::sync::DropGuard;

use crate::answer::Answer;
use crate::builder::Builder;
use crate::config::{ClientConfig, ReadPolicy};
use crate::error::{ReadError, WriteError};
use crate::load::{Flights, Keys};
use crate::metrics::{ClientMetrics, Counters};
use crate::operation::{Failure, Operation, Operator, Repeat};
use crate::options::{Condition, Found, SetOptions, SetOutcome, ttl_ms};
use crate::payload::{IntoBytes, check_key, is_hopelessly_large};
use crate::routing::Routing;
use crate::source::Attempts;

/// A client of one cluster. Clones are cheap and share everything; the connections close with the last one.
///
/// Every operation has a deadline, by default 1,000 ms from the call, retries included: see
/// [`Client::with_timeout`]. Operations of all clones to one node travel together, so the way to high throughput is many
/// operations at a time: from many tasks, or by the `_many` calls.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    timeout: Duration,
    read_policy: ReadPolicy,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) operator: Operator,
    pub(crate) counters: Arc<Counters>,
    pub(crate) flights: Flights,
    pub(crate) attempts: Arc<Attempts>,
    config: Arc<ClientConfig>,
    _following: DropGuard,
}

/// The longest deadline, as of the setting.
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

impl Client {
    /// Settings for a new client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A builder that starts from `config`.
    pub fn builder_from(config: ClientConfig) -> Builder {
        Builder::new(config)
    }

    pub(crate) fn new(
        config: Arc<ClientConfig>,
        routing: Arc<Routing>,
        attempts: Arc<Attempts>,
        counters: Arc<Counters>,
        following: DropGuard,
    ) -> Self {
        let operator = Operator {
            routing,
            counters: counters.clone(),
            unreachable_wait: Duration::from_millis(config.unreachable_wait_ms),
        };
        Self {
            timeout: config.operation_timeout(),
            read_policy: config.read_policy,
            shared: Arc::new(Shared {
                operator,
                counters,
                flights: Flights::default(),
                attempts,
                config,
                _following: following,
            }),
        }
    }

    /// The same client, whose operations have another deadline: 1 ms to 1 hour.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.clamp(Duration::from_millis(1), TIMEOUT_MAX),
            ..self.clone()
        }
    }

    /// The same client, whose reads become something else when no owner answers.
    #[must_use]
    pub fn with_read_policy(&self, read_policy: ReadPolicy) -> Self {
        Self {
            read_policy,
            ..self.clone()
        }
    }

    /// What this client and its clones have counted.
    #[must_use]
    pub fn metrics(&self) -> ClientMetrics {
        self.shared.counters.snapshot()
    }

    /// What is under `key`; `None` if nothing is.
    ///
    /// # Errors
    /// If the key is none or too much is pending. If no owner answers, it is `None` too, unless the
    /// [`ReadPolicy`] says otherwise.
    pub async fn get(&self, key: impl IntoBytes) -> Result<Option<Bytes>, ReadError> {
        Ok(self.read_key(key).await?.map(|answer| answer.value))
    }

    /// What is under `key`, with its version and what is left of its time to live.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_with_version(&self, key: impl IntoBytes) -> Result<Option<Found>, ReadError> {
        Ok(self.read_key(key).await?.map(|answer| Found {
            value: answer.value,
            version: Version::new(answer.version),
            ttl: (answer.ttl_ms > 0).then(|| Duration::from_millis(answer.ttl_ms)),
        }))
    }

    /// The first attempt needs no more of the key than to look at it; only what comes after that owns it.
    async fn read_key(&self, key: impl IntoBytes) -> Result<Option<Answer>, ReadError> {
        self.shared.counters.gets.one();
        check_key(key.as_slice())?;
        let at = SliceKey::of_key(key.as_slice());
        let deadline = self.deadline();
        let op = OpView {
            kind: OpKind::Get.into(),
            key: key.as_slice(),
            ..OpView::default()
        };
        let operator = &self.shared.operator;
        let ended = match operator.try_once(&op, Value::Copied(&[]), at, deadline).await {
            Ok(answer) => return self.read(Ok(answer)),
            Err(ended) => ended,
        };
        let operation = Operation {
            op: self::op(OpKind::Get, key.into_bytes()),
            at,
            deadline,
            repeat: Repeat::Read,
        };
        self.read(Box::pin(operator.finish(&operation, ended)).await)
    }

    /// Puts `value` under `key`, whatever is there, without a time to live. Gives its version.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn set(&self, key: impl IntoBytes, value: impl IntoBytes) -> Result<Version, WriteError> {
        match self.set_with(key, value, SetOptions::new()).await? {
            SetOutcome::Stored(version) => Ok(version),
            SetOutcome::ConditionFailed { .. } => Err(WriteError::Refused {
                status: Status::ConditionFailed,
                message: "no condition was given".into(),
            }),
        }
    }

    /// Puts `value` under `key`, as the options say.
    ///
    /// # Errors
    /// See [`WriteError`]. A condition that does not hold is no error but an outcome.
    pub async fn set_with(
        &self,
        key: impl IntoBytes,
        value: impl IntoBytes,
        options: SetOptions,
    ) -> Result<SetOutcome, WriteError> {
        let operation = self.set_operation(key.into_bytes(), value.into_bytes(), options)?;
        self.set_outcome(self.write(&operation).await)
    }

    /// Removes what is under `key`, if anything is. Sent again if its answer is lost: it is the delete to use, unless
    /// the report is needed.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete(&self, key: impl IntoBytes) -> Result<(), WriteError> {
        let operation = self.delete_operation(key.into_bytes(), false)?;
        self.wrote(self.write(&operation).await).map(drop)
    }

    /// Removes what is under `key`; whether anything was. Never sent twice.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete_reporting(&self, key: impl IntoBytes) -> Result<bool, WriteError> {
        let operation = self.delete_operation(key.into_bytes(), true)?;
        let reply = self.wrote(self.write(&operation).await)?;
        Ok(reply.status() == Status::Ok)
    }

    /// Gives what is under `key` a new time to live; `None`: it does not expire. Whether anything was there.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn touch(&self, key: impl IntoBytes, ttl: Option<Duration>) -> Result<bool, WriteError> {
        self.shared.counters.touches.one();
        let op = v1::Op {
            ttl_ms: ttl_ms(ttl)?,
            ..op(OpKind::Touch, key.into_bytes())
        };
        let operation = self.operation(op, Repeat::Never)?;
        let reply = self.wrote(self.write(&operation).await)?;
        Ok(reply.status() == Status::Ok)
    }

    /// Adds to the decimal number under `key` and gives the sum. An absent key counts as 0 and is created without a
    /// time to live.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::NotANumber`] and [`WriteError::Overflow`] leave the value as it is.
    pub async fn add(&self, key: impl IntoBytes, delta: i64) -> Result<i64, WriteError> {
        self.add_with_ttl(key, delta, None).await
    }

    /// As [`Client::add`], with a time to live for a key that it creates.
    ///
    /// # Errors
    /// As [`Client::add`].
    pub async fn add_with_ttl(
        &self,
        key: impl IntoBytes,
        delta: i64,
        ttl: Option<Duration>,
    ) -> Result<i64, WriteError> {
        self.shared.counters.adds.one();
        let op = v1::Op {
            delta,
            ttl_ms: ttl_ms(ttl)?,
            ..op(OpKind::Add, key.into_bytes())
        };
        let operation = self.operation(op, Repeat::Never)?;
        let reply = self.wrote(self.write(&operation).await)?;
        Ok(reply.number)
    }

    /// Carries a write out; loads that began before its end are not shared by who comes after it.
    async fn write(&self, operation: &Operation) -> Result<Answer, Failure> {
        let _own = self.shared.flights.own_write(Keys::One(&operation.op.key));
        self.shared.operator.run(operation).await
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn operation(&self, op: v1::Op, repeat: Repeat) -> Result<Operation, crate::payload::KeyError> {
        check_key(&op.key)?;
        Ok(Operation {
            at: SliceKey::of_key(&op.key),
            op,
            deadline: self.deadline(),
            repeat,
        })
    }

    pub(crate) fn get_operation(&self, key: Bytes) -> Result<Operation, ReadError> {
        self.shared.counters.gets.one();
        Ok(self.operation(op(OpKind::Get, key), Repeat::Read)?)
    }

    pub(crate) fn set_operation(
        &self,
        key: Bytes,
        value: Bytes,
        options: SetOptions,
    ) -> Result<Operation, WriteError> {
        self.shared.counters.sets.one();
        if is_hopelessly_large(&value) {
            let message = format!("{} bytes are more than any node takes", value.len());
            return Err(WriteError::ValueTooLarge(message));
        }
        let (condition, version) = options.condition.to_wire();
        let op = v1::Op {
            value,
            ttl_ms: ttl_ms(options.ttl)?,
            condition: condition.into(),
            version,
            ..op(OpKind::Set, key)
        };
        let is_harmless = self.shared.config.resend_sets && options.condition == Condition::Always;
        let repeat = if is_harmless {
            Repeat::Harmless
        } else {
            Repeat::Never
        };
        Ok(self.operation(op, repeat)?)
    }

    pub(crate) fn delete_operation(
        &self,
        key: Bytes,
        report_existence: bool,
    ) -> Result<Operation, WriteError> {
        self.shared.counters.deletes.one();
        let op = v1::Op {
            report_existence,
            ..op(OpKind::Delete, key)
        };
        let repeat = if report_existence {
            Repeat::Never
        } else {
            Repeat::Harmless
        };
        Ok(self.operation(op, repeat)?)
    }

    /// What a read's end means: a reply if something was found, `None` for a miss.
    pub(crate) fn read(&self, result: Result<Answer, Failure>) -> Result<Option<Answer>, ReadError> {
        let counters = &self.shared.counters;
        match result {
            Ok(reply) if reply.status() == Status::Ok => {
                counters.hits.one();
                Ok(Some(reply))
            }
            Ok(_) => {
                counters.misses.one();
                Ok(None)
            }
            Err(Failure::Busy) => {
                counters.busy.one();
                Err(ReadError::Busy)
            }
            Err(Failure::Shed) => {
                counters.shed.one();
                match self.read_policy {
                    ReadPolicy::MissOnUnreachable => {
                        counters.shed_misses.one();
                        counters.misses.one();
                        Ok(None)
                    }
                    ReadPolicy::Error => Err(ReadError::Busy),
                }
            }
            Err(Failure::Refused { status, message }) => Err(ReadError::Refused { status, message }),
            Err(Failure::NotApplied(cause) | Failure::Unknown(cause)) => match self.read_policy {
                ReadPolicy::MissOnUnreachable => {
                    counters.unreachable_misses.one();
                    counters.misses.one();
                    Ok(None)
                }
                ReadPolicy::Error => Err(ReadError::Unreachable(cause)),
            },
        }
    }

    /// What a write's end means.
    pub(crate) fn wrote(&self, result: Result<Answer, Failure>) -> Result<Answer, WriteError> {
        let counters = &self.shared.counters;
        result.map_err(|failure| match failure {
            Failure::Busy => {
                counters.busy.one();
                WriteError::Busy
            }
            Failure::Shed => {
                counters.shed.one();
                WriteError::Busy
            }
            Failure::NotApplied(cause) => {
                counters.writes_unavailable.one();
                WriteError::Unavailable(cause)
            }
            Failure::Unknown(cause) => {
                counters.outcome_unknown.one();
                WriteError::OutcomeUnknown(cause)
            }
            Failure::Refused { status, message } => match status {
                Status::ValueTooLarge => WriteError::ValueTooLarge(message),
                Status::NotANumber => WriteError::NotANumber,
                Status::Overflow => WriteError::Overflow,
                _ => WriteError::Refused { status, message },
            },
        })
    }

    pub(crate) fn set_outcome(&self, result: Result<Answer, Failure>) -> Result<SetOutcome, WriteError> {
        let reply = self.wrote(result)?;
        let version = Version::new(reply.version);
        Ok(match reply.status() {
            Status::Ok => SetOutcome::Stored(version),
            Status::ConditionFailed | Status::NotFound => SetOutcome::ConditionFailed {
                present: (reply.version > 0).then_some(version),
            },
            status => {
                return Err(WriteError::Refused {
                    status,
                    message: "not an answer to a set".into(),
                });
            }
        })
    }
}

/// An operation of a kind on a key; the rest is default.
pub(crate) fn op(kind: OpKind, key: Bytes) -> v1::Op {
    v1::Op {
        kind: kind.into(),
        key,
        ..Default::default()
    }
}
