import { AppError, type ErrorCode } from '@sallyport/schema';

/** `scimType` of RFC 7644 §3.12, and `versionMismatch` for a precondition that failed (§3.14), which has none. */
const codes = {
  invalidFilter: 'INVALID_INPUT',
  invalidPath: 'INVALID_INPUT',
  invalidSyntax: 'INVALID_INPUT',
  invalidValue: 'INVALID_INPUT',
  mutability: 'INVALID_INPUT',
  noTarget: 'INVALID_INPUT',
  tooMany: 'INVALID_INPUT',
  uniqueness: 'CONFLICT',
  versionMismatch: 'CONFLICT',
} as const satisfies Record<string, ErrorCode>;
export type ScimType = keyof typeof codes;

/** A refusal that SCIM has a word for. @param detail is shown to the directory */
export function scimProblem(scimType: ScimType, detail: string): AppError {
  return new AppError(codes[scimType], { publicMessage: detail, data: { scimType } });
}

/** The word for a failure, where it has one. */
export function scimTypeOf(error: AppError): ScimType | undefined {
  const scimType = error.data?.['scimType'];
  if (typeof scimType === 'string' && Object.hasOwn(codes, scimType)) return scimType as ScimType;
  // A lost race for a name: see `mutate`.
  if (error.code === 'CONFLICT') return 'uniqueness';
  return error.code === 'INVALID_INPUT' ? 'invalidValue' : undefined;
}
