//! What must happen at once in Redis, or not at all: a key without a time to live would stay for
//! ever.
//!
//! The keys are a stream's record and log. Each script may run again, also late and after its
//! successors: a connection that was given up may still deliver what was written to it.

use redis::Script;

/// Those that run often enough to be sent by their hash alone.
pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) close: Script,
}

/// Arguments: time of keeping in ms, owner, what the layer wants to know again.
///
/// A log without a record is what eviction has left: its numbers may be in the way of new ones.
pub(super) const OPEN: &str = r"
if redis.call('HSETNX', KEYS[1], 'last', 0) == 1 then
    redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'about', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1";

/// Arguments: owner. Of the keys, the record alone.
pub(super) const TAKE: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('HSET', KEYS[1], 'owner', ARGV[1])
end
return 1";

/// Arguments: time of keeping in ms, first number to keep, then each event's number and bytes.
/// Answers 0 for a stream that is not there.
///
/// Trimmed in whole nodes, which costs next to nothing; a few old events stay longer.
const APPEND: &str = r"
local last = redis.call('HGET', KEYS[1], 'last')
if not last then
    return 0
end
local before = last
for i = 3, #ARGV, 2 do
    if tonumber(ARGV[i]) > tonumber(last) then
        redis.call('XADD', KEYS[2], ARGV[i] .. '-0', 'e', ARGV[i + 1])
        last = ARGV[i]
    end
end
if last ~= before then
    redis.call('HSET', KEYS[1], 'last', last)
end
redis.call('XTRIM', KEYS[2], 'MINID', '~', ARGV[2] .. '-0')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1";

/// Arguments: time of keeping in ms, last number, name of the end. Answers 0 for a stream that is
/// not there.
///
/// The end is in the log for those who wait, and in the record for those who come later.
const CLOSE: &str = r"
local last = redis.call('HGET', KEYS[1], 'last')
if not last then
    return 0
end
if redis.call('HEXISTS', KEYS[1], 'end') == 0 then
    if tonumber(ARGV[2]) >= tonumber(last) then
        redis.call('XADD', KEYS[2], ARGV[2] .. '-1', 'end', ARGV[3])
    end
    redis.call('HSET', KEYS[1], 'last', ARGV[2], 'end', ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1";

impl Default for Scripts {
    fn default() -> Self {
        Self {
            append: Script::new(APPEND),
            close: Script::new(CLOSE),
        }
    }
}
