import { open, randomSecret, seal } from '@sallyport/schema/platform';
import type { Runtime } from '../runtime/runtime.ts';

const purpose = 'sallyport.question.v1';

/** Whom a question was put to, within a session. */
export interface QuestionOwner {
  readonly principalId: string;
  readonly sessionId: string;
}

/**
 * The id of a request toward a legacy client. It says, to nodes alone, which node waits for the response: the client
 * posts it to whichever the balancer chooses.
 */
export function sealQuestionId(runtime: Pick<Runtime, 'sealing'>, owner: QuestionOwner, nodeId: string): string {
  return seal(runtime.sealing.seal, purposeFor(owner), JSON.stringify([nodeId, randomSecret('question_')]));
}

/** The node that waits; undefined where it is no question to this client. */
export function openQuestionId(
  runtime: Pick<Runtime, 'sealing'>,
  owner: QuestionOwner,
  questionId: string,
): string | undefined {
  const opened = open(runtime.sealing.open, purposeFor(owner), questionId)?.toString('utf8');
  const fields: unknown = opened === undefined ? undefined : JSON.parse(opened);
  return Array.isArray(fields) && typeof fields[0] === 'string' ? fields[0] : undefined;
}

function purposeFor({ principalId, sessionId }: QuestionOwner): string {
  return JSON.stringify([purpose, principalId, sessionId]);
}
