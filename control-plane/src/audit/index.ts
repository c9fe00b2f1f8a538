export { type Database, openDatabase } from '../database/client.ts';
export { recordMutation } from './audit.service.ts';
export { type AuditSigner, CheckpointService } from './checkpoint.service.ts';
export {
  AuditDeliveryService,
  deliveryCursors,
  deliveryFailingMsMax,
  deliveryOf,
  type DeliveryTarget,
  openDelivery,
  restartDelivery,
} from './delivery.service.ts';
export { EpochService } from './epoch.service.ts';
export { type AuditEventFilter, EventQueryService, TailPosition } from './event-query.service.ts';
export { ExportService } from './export.service.ts';
export { type AuditAlarm, IngestService } from './ingest.service.ts';
export { PartitionService } from './partition.service.ts';
export { TrafficIngestService } from './traffic-ingest.service.ts';
export { TrafficQueryService } from './traffic-query.service.ts';
