/** Resumable streams for replay-cluster: no DOM, no dependencies. */
export { reconnectDelay, retryAfter } from './backoff.ts';
export { endOf, eventsOf, problemOf, type End, type Problem, type StreamEvent } from './events.ts';
export {
  Session,
  SYSTEM_CLOCK,
  type Clock,
  type Position,
  type Resumed,
  type SessionOptions,
  type SessionState,
  type Sink,
  type Transport,
  type Wake,
} from './session.ts';
export { RecordSplitter, type StreamRecord } from './splitter.ts';
