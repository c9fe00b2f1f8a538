export { AuditShipper, type BatchSigner, type EpochWatermark } from './audit-shipper.ts';
export { AuditSpool, type AuditSpoolOptions } from './audit-spool.ts';
export { Metrics } from './metrics.ts';
export { QueueThread } from './queue-thread.ts';
