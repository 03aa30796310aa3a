/* The stack in any mode, for handlers that are not hot. -1: fault, nothing moved. */
#ifndef INSULA_ENGINE_INTERPRET_NEAR_STACK_H
#define INSULA_ENGINE_INTERPRET_NEAR_STACK_H

#include "cpu/vcpu.h"

int near_push(struct vcpu *v, uint64_t value, unsigned size);
/* The top of the stack into v->soft.value, and then its release. */
int near_peek(struct vcpu *v, unsigned size);
void near_release(struct vcpu *v, unsigned size);

#endif
