/** Loaded into a program before it (`--import`): whoever started the program over IPC moves its clock. */

export interface ClockMessage {
  readonly type: 'moveClock' | 'clockMoved';
  /** Milliseconds ahead of the system's clock from then on. */
  readonly aheadMs: number;
}

const systemNow = Date.now;
let aheadMs = 0;
Date.now = () => systemNow() + aheadMs;

process.on('message', (message: Partial<ClockMessage> | null) => {
  if (message?.type !== 'moveClock') return;
  aheadMs = message.aheadMs ?? 0;
  process.send?.({ type: 'clockMoved', aheadMs } satisfies ClockMessage);
});
