import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { NodeLoad } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import type { AuditShipper } from './audit-shipper.ts';
import type { AuditSpool } from './audit-spool.ts';

interface ShippedTelemetry {
  readonly spool: Pick<AuditSpool, 'bytes'>;
  readonly shipper: Pick<AuditShipper, 'recordsUnconfirmed'>;
}

/** How busy the node is, between two readings. */
export class LoadMeter {
  readonly #clock: Clock;
  readonly #delay = monitorEventLoopDelay({ resolution: 20 });
  #since: number;
  requests = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#since = clock.monotonic();
    this.#delay.enable();
  }

  read(exchangesOpen: number, telemetry: ShippedTelemetry | undefined): NodeLoad {
    const at = this.#clock.monotonic();
    const requestsPerSecond = (this.requests * 1000) / Math.max(1, at - this.#since);
    const eventLoopDelayP99Ms = Number.isFinite(this.#delay.mean) ? this.#delay.percentile(99) / 1e6 : 0;
    this.#since = at;
    this.requests = 0;
    this.#delay.reset();
    return {
      exchangesOpen,
      requestsPerSecond,
      eventLoopDelayP99Ms,
      residentBytes: process.memoryUsage.rss(),
      spoolBytes: telemetry?.spool.bytes ?? 0,
      spoolRecordsUnconfirmed: Math.max(0, telemetry?.shipper.recordsUnconfirmed ?? 0),
    };
  }

  close(): void {
    this.#delay.disable();
  }
}
